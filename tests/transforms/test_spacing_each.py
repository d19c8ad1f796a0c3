"""SpacingEachd: MONAI's resampling, where one key's name begins with another's."""

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Spacingd

from monai_mamba_gen.transforms import SpacingEachd

KEYS = ["image", "target", "label", "target_label"]
SPACING = {"pixdim": (1.5, 1.5, 3.0), "mode": ["bilinear", "bilinear", "nearest", "nearest"]}
AFFINE = torch.tensor([[0.0, -2.0, 0.0, 5.0], [1.0, 0.0, 0.0, -7.0], [0.0, 0.0, 8.0, 3.0], [0, 0, 0, 1]])


def volumes(channels=1):
    torch.manual_seed(0)
    data = {
        key: MetaTensor(torch.rand(channels, 7, 6, 3), affine=AFFINE, meta={"filename_or_obj": "a.nii"}) for key in KEYS
    }
    return {key: value.round() if "label" in key else value for key, value in data.items()}


def test_monai_still_needs_the_detour():
    with pytest.raises(AttributeError, match="update"):
        Spacingd(KEYS, **SPACING)(volumes())


def test_equals_monai_where_monai_works():
    data = volumes()
    expected = {}
    for key, mode in zip(KEYS, SPACING["mode"]):
        expected |= Spacingd(key, pixdim=SPACING["pixdim"], mode=mode)({key: data[key]})
    resampled = SpacingEachd(KEYS, **SPACING)({**data, "image_path": "a.nii.gz"})
    for key in KEYS:
        assert torch.equal(resampled[key].as_tensor(), expected[key].as_tensor())
        assert torch.equal(resampled[key].affine, resampled["image"].affine)
        assert resampled[key].shape == resampled["image"].shape
    assert resampled["image_path"] == "a.nii.gz"
    assert set(resampled["label"].unique().tolist()) <= {0.0, 1.0}


def test_frames_are_resampled_as_each_alone():
    data = volumes(channels=3)
    spacing = SpacingEachd("image", pixdim=(1.5, 1.5, 3.0))
    together = spacing({"image": data["image"]})["image"]
    alone = [spacing({"image": data["image"][row : row + 1]})["image"] for row in range(3)]
    assert torch.allclose(together.as_tensor(), torch.cat([each.as_tensor() for each in alone]), atol=1e-6)


def test_missing_keys():
    data = {"image": volumes()["image"]}
    with pytest.raises(KeyError):
        SpacingEachd(KEYS, **SPACING)(data)
    spacing = SpacingEachd(KEYS, **SPACING, allow_missing_keys=True)
    assert list(spacing(data)) == ["image"]
    assert SpacingEachd("image", pixdim=SPACING["pixdim"])(data)["image"].shape == spacing(data)["image"].shape
