"""From the network's crop back to the scan."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose

from monai_mamba_gen.transforms import HeartCropd, LoadCined, RestoreGridd, SpacingEachd


def preprocess(path, pixdim, size):
    keys = ["image", "target"]
    steps = [LoadCined(allow_missing_keys=True), SpacingEachd(keys, pixdim, allow_missing_keys=True)]
    return Compose([*steps, HeartCropd(keys, size, allow_missing_keys=True)])({"image": str(path)})


@pytest.fixture
def smooth(tmp_path):
    """A volume that is a linear function of the place, which trilinear resampling keeps; and its file."""
    x, y, z = np.meshgrid(*(np.arange(n) for n in (20, 18, 6)), indexing="ij")
    array = (x + 2 * y + 3 * z).astype(np.float32)
    affine = np.array([[-1.5, 0, 0, 10], [0, 0, 8, -4], [0, 1.5, 0, 3], [0, 0, 0, 1]], dtype=float)
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "ed.nii.gz")
    return tmp_path / "ed.nii.gz", array, affine


def test_crop_and_resampling_are_undone(smooth):
    path, array, affine = smooth
    data = preprocess(path, (2.0, 2.0, 4.0), (8, 8, 6))
    frames = torch.cat([data["image"], data["image"] * 2])
    restored = RestoreGridd("pred", background=-5)({**data, "pred": frames})["pred"]
    assert restored.shape == (2, 20, 18, 6)
    np.testing.assert_allclose(restored.affine.numpy(), affine, atol=1e-6)
    inside = (restored[0] != -5) & (restored[1] > 0)
    middle = restored[0, 8:12, 7:11, 2:4].numpy()
    np.testing.assert_allclose(middle, array[8:12, 7:11, 2:4], atol=1e-3)
    np.testing.assert_allclose(restored[1, 8:12, 7:11, 2:4].numpy(), 2 * middle, atol=2e-3)
    assert 0.03 < float(inside.float().mean()) < 0.6 and float(restored[0, 0, 0, 0]) == -5


def test_a_frame_of_a_cine_goes_to_the_grid_of_the_volumes(tmp_path):
    array = np.random.default_rng(0).random((12, 10, 3, 5), dtype=np.float32)
    nib.save(nib.Nifti1Image(array, np.diag([1.5, 1.5, 8, 1])), tmp_path / "cine.nii.gz")
    data = preprocess(tmp_path / "cine.nii.gz", (1.5, 1.5, 8.0), (12, 10, 3))
    restored = RestoreGridd("pred")({**data, "pred": data["image"].clone()})["pred"]
    np.testing.assert_allclose(restored.numpy()[0], array[..., 0], atol=1e-5)


def test_missing_keys(smooth):
    data = preprocess(smooth[0], (2.0, 2.0, 4.0), (8, 8, 6))
    assert "pred" not in RestoreGridd("pred", allow_missing_keys=True)(data)
    with pytest.raises(KeyError):
        RestoreGridd("pred")(data)
