"""From the network's crop back to the scan."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose

from monai_mamba_gen.transforms import HeartCropd, LoadCined, RestoreGridd, SpacingEachd, restore_grid, restore_volume


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


AXES = np.array([[0, 0, -1.0, 3], [-1, 0, 0, 7], [0, 1, 0, -2], [0, 0, 0, 1]])  # a turned grid of 1 mm


def test_whole_steps_give_back_every_bit():
    """Axes swapped and flipped, two voxels cropped on one side, three added on the other."""
    source = torch.rand(9, 7, 5)
    grid = np.eye(4)
    grid[:3, :3] = [[0, -1, 0], [0, 0, 1], [1, 0, 0]]  # model (i, j, k) shows source (6 - j, ...)
    grid[:3, 3] = [8, 0, 0]
    model = source.permute(2, 0, 1).flip(1)  # model[k, 8 - i, j] = source[i, j, k]
    model = torch.nn.functional.pad(model, (0, 0, 0, 0, 0, 3))[:, 2:]
    grid[:3, 3] += grid[:3, 1] * 2
    volume = torch.stack([model, model * 3])
    restored, known = restore_volume(volume, AXES @ grid, AXES, (9, 7, 5))
    assert known[:7].all() and not known[7:].any()
    assert torch.equal(restored[0, :7], source[:7]) and torch.equal(restored[1, :7], source[:7] * 3)
    assert not restored[:, 7:].any()


def test_only_voxels_inside_the_mask_are_mixed():
    volume, mask = torch.full((1, 4, 4, 4), -1.0), torch.zeros(4, 4, 4)
    mask[1:3, 1:3, 1:3] = 1
    volume[0, 1:3, 1:3, 1:3] = 0.5
    finer = np.diag([0.5, 0.5, 0.5, 1.0])
    restored, known = restore_volume(volume, np.eye(4), finer, (8, 8, 8), mask)
    assert (restored[0][known] == 0.5).all() and known.sum() == 5**3
    _, everywhere = restore_volume(volume, np.eye(4), finer, (8, 8, 8))
    assert everywhere.all()


def test_end_slices_do_not_fade(smooth):
    """The scan's last slices lie up to half a voxel beyond the model's last centre."""
    path, array, affine = smooth
    data = preprocess(path, (2.0, 2.0, 4.0), (15, 14, 11))
    data |= {"pred": data["image"].clone(), "mask": data["image"].clone()}
    data["mask"][:] = 1
    faded = RestoreGridd("pred", background=-500.0)(data)["pred"]
    kept = RestoreGridd("pred", background=-500.0, mask_key="mask")(data)["pred"]
    assert faded.shape == kept.shape == (1, *array.shape)
    np.testing.assert_allclose(kept.affine.numpy(), affine, atol=1e-9)
    assert float(kept.min()) >= -1 and float(faded.min()) < -100
    assert np.abs(kept.numpy()[0] - array).max() < 3


def test_slabs_change_nothing(monkeypatch):
    volume, mask = torch.rand(2, 6, 5, 7), torch.rand(6, 5, 7) > 0.3
    arguments = (volume, np.diag([1.3, 1.1, 0.9, 1]), np.eye(4), (8, 6, 7), mask)
    whole = restore_volume(*arguments)
    monkeypatch.setattr(restore_grid, "_VOXELS_AT_ONCE", 48 * 2)
    for first, second in zip(whole, restore_volume(*arguments), strict=True):
        assert torch.equal(first, second)


def test_errors_of_restore_volume():
    volume = torch.zeros(1, 4, 4, 4)
    for arguments, message in (
        ((volume[0], np.eye(4), np.eye(4), (4, 4, 4)), "volume must be"),
        ((volume, np.eye(4), np.eye(4), (4, 4)), "volume must be"),
        ((volume, np.eye(4), np.eye(4), (4, 4, 4), torch.zeros(4, 4, 5)), "mask"),
        ((volume, np.eye(3), np.eye(4), (4, 4, 4)), "affine_model must be"),
        ((volume, np.eye(4), np.zeros((4, 4)), (4, 4, 4)), "affine_source must be"),
    ):
        with pytest.raises(ValueError, match=message):
            restore_volume(*arguments)
