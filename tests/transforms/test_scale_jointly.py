"""ScaleIntensityJointlyd: one function for all keys, taken from the reference keys."""

import pytest
import torch
from monai.data import MetaTensor

from monai_mamba_gen.transforms import ScaleIntensityJointlyd
from monai_mamba_gen.utils import DataError

KEYS = ["image", "target", "frames"]


def test_percentiles_of_both_references_together():
    image, target = torch.arange(0.0, 501).reshape(1, -1), torch.arange(500.0, 1000).reshape(1, -1)
    scaled = ScaleIntensityJointlyd(KEYS, lower=10, upper=90, allow_missing_keys=True)(
        {"image": image, "target": target}
    )
    assert scaled["image"].min() == -1 and scaled["image"].max() < 0.01
    assert scaled["target"].max() == 1 and scaled["target"].min() > -0.01
    values = torch.cat([image, target], 1).quantile(torch.tensor([0.1, 0.9]))
    expected = ((image - values[0]) / (values[1] - values[0]) * 2 - 1).clamp(-1, 1)
    assert torch.allclose(scaled["image"], expected, atol=1e-5)


def test_frames_follow_and_are_clipped_and_the_affine_stays():
    affine = torch.diag(torch.tensor([1.5, 1.5, 3.0, 1.0])).double()
    data = {
        "image": MetaTensor(torch.tensor([[[[0.0, 4.0]]]]), affine=affine),
        "target": torch.tensor([[[[1.0, 2.0]]]]),
    }
    data["frames"] = torch.tensor([[[[-3.0, 3.0]]], [[[9.0, 1.0]]]])
    scaled = ScaleIntensityJointlyd(KEYS, lower=0, upper=100)(data)
    assert scaled["frames"].flatten().tolist() == [-1, 0.5, 1, -0.5]
    assert torch.equal(scaled["image"].affine, affine) and data["frames"].min() == -3


def test_a_reference_alone_and_other_keys_untouched():
    data = {"image": torch.tensor([[0, 10]], dtype=torch.int16), "label": torch.tensor([[3.0]])}
    scaled = ScaleIntensityJointlyd(KEYS, lower=0, upper=100, allow_missing_keys=True)(data)
    assert scaled["image"].tolist() == [[-1, 1]] and scaled["image"].dtype == torch.float32
    assert scaled["label"] is data["label"]


@pytest.mark.parametrize("bad", ["constant", "nan"])
def test_constant_and_nan_name_file_and_key(bad):
    volume = torch.full((1, 4, 4, 2), 3.0)
    if bad == "nan":
        volume[0, 0, 0] = torch.tensor([float("nan"), 1.0])
    image = MetaTensor(volume, meta={"filename_or_obj": "a.nii.gz"})
    with pytest.raises(DataError, match=r"^file a.nii.gz \(key .image.\): .*(constant|NaN)"):
        ScaleIntensityJointlyd("image")({"image": image})


def test_missing_keys_and_arguments():
    with pytest.raises(KeyError):
        ScaleIntensityJointlyd(KEYS)({"image": torch.rand(1, 4)})
    with pytest.raises(KeyError, match="reference"):
        ScaleIntensityJointlyd("label")({"label": torch.rand(1, 4)})
    for bounds in ((50, 50), (-1, 50), (1, 101)):
        with pytest.raises(ValueError, match="lower"):
            ScaleIntensityJointlyd("image", lower=bounds[0], upper=bounds[1])
