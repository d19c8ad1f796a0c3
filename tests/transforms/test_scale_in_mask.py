"""ScaleIntensityInMaskd: percentiles of the body alone."""

import pytest
import torch
from monai.data import MetaTensor

from monai_mamba_gen.transforms import ScaleIntensityInMaskd
from monai_mamba_gen.utils import DataError


def test_percentiles_within_the_mask_whatever_is_around():
    values = torch.arange(0.0, 1001)
    mask = torch.ones(1, 1001)
    expected = ((values - 100) / 800 * 2 - 1).clamp(-1, 1)
    for around in (0, 500, 5000):
        volume = torch.cat([values, torch.full((around,), 7.0)])[None]
        inside = torch.cat([mask, torch.zeros(1, around)], 1)
        scaled = ScaleIntensityInMaskd("target", lower=10, upper=90)({"target": volume, "mask": inside})["target"]
        assert torch.allclose(scaled[0, :1001], expected, atol=1e-5) and scaled.abs().max() <= 1


def test_units_do_not_matter_and_each_key_has_its_own():
    volume = torch.rand(1, 8, 8, 4, generator=torch.Generator().manual_seed(0))
    data = {"a": volume, "b": 700 * volume + 30, "mask": torch.ones_like(volume, dtype=torch.uint8)}
    scaled = ScaleIntensityInMaskd(["a", "b"])(data)
    assert torch.allclose(scaled["a"], scaled["b"], atol=1e-4) and scaled["mask"] is data["mask"]


def test_affine_and_dtype():
    affine = torch.diag(torch.tensor([1.5, 1.5, 3.0, 1.0])).double()
    volume = MetaTensor(torch.arange(24).reshape(1, 2, 3, 4).short(), affine=affine)
    scaled = ScaleIntensityInMaskd("target")({"target": volume, "mask": MetaTensor(torch.ones(1, 2, 3, 4))})["target"]
    assert scaled.dtype == torch.float32 and torch.equal(scaled.affine, affine) and volume.max() == 23


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mask": None}, "has no mask, key 'mask' is missing"),
        ({"mask": torch.zeros(1, 4, 4)}, "its mask is empty"),
        ({"mask": torch.ones(1, 4, 5)}, r"shape \(1, 4, 4\), its mask has \(1, 4, 5\)"),
        ({"target": torch.full((1, 4, 4), 3.0)}, "constant within the mask, .* are both 3"),
        ({"target": torch.full((1, 4, 4), float("nan"))}, "voxels are NaN or infinite"),
    ],
)
def test_errors_name_file_and_key(change, reason):
    data = {"target": torch.rand(1, 4, 4), "mask": torch.ones(1, 4, 4), **change}
    data = {key: value for key, value in data.items() if value is not None}
    data["target"] = MetaTensor(data["target"], meta={"filename_or_obj": "mr.nii.gz"})
    with pytest.raises(DataError, match=rf"^file mr.nii.gz \(key 'target'\): {reason}"):
        ScaleIntensityInMaskd("target")(data)


def test_keys_and_arguments():
    assert ScaleIntensityInMaskd("target", allow_missing_keys=True)({}) == {}
    with pytest.raises(KeyError):
        ScaleIntensityInMaskd("target")({})
    for bounds in ((50, 50), (-1, 50), (1, 101)):
        with pytest.raises(ValueError, match="lower"):
            ScaleIntensityInMaskd("target", lower=bounds[0], upper=bounds[1])
