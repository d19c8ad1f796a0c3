"""CheckPaird: what it refuses, in which words, and what it lets pass."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

from monai_mamba_gen.transforms import CheckPaird
from monai_mamba_gen.utils import DataError

KEYS = ("image", "target", "mask")
AFFINE = np.diag([-1.5, -1.5, 3.0, 1.0])


@pytest.fixture
def pair(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {key: rng.random((6, 7, 4), dtype=np.float32) for key in KEYS}
    arrays["mask"] = (arrays["mask"] > 0.5).astype(np.uint8)

    def load(affines=None, leave_out=(), **changed):
        item = {}
        for key in KEYS:
            if key in leave_out:
                continue
            item[key] = str(tmp_path / f"{key}.nii.gz")
            nib.save(nib.Nifti1Image(changed.get(key, arrays[key]), (affines or {}).get(key, AFFINE)), item[key])
        keys = list(item)
        return Compose([LoadImaged(keys), EnsureChannelFirstd(keys)])(item)

    load.arrays = arrays
    return load


def error(data, **kwargs):
    with pytest.raises(DataError) as caught:
        CheckPaird(**kwargs)(data)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_good_pair_passes_unchanged(pair):
    data = pair()
    checked = CheckPaird()(data)
    assert list(checked) == list(data) and all(checked[key] is data[key] for key in KEYS)
    shifted = AFFINE.copy()
    shifted[:3, 3] += 0.01
    CheckPaird()(pair(affines={"target": shifted}))


def test_other_grids_are_named(pair):
    message = error(pair(target=pair.arrays["target"][:, :, :3]))
    assert message.startswith("file ") and "target.nii.gz (key 'target')" in message and "image.nii.gz" in message
    assert "shape (1, 6, 7, 3), its image has (1, 6, 7, 4)" in message
    for change in (np.diag([1.5, -1.5, 3, 1.0]), np.diag([-1.5, -1.5, 3.5, 1.0])):
        assert "on another grid than its image" in error(pair(affines={"target": change}))
    shifted = AFFINE.copy()
    shifted[2, 3] = 1.0
    assert "corners are up to 1 mm apart" in error(pair(affines={"mask": shifted}))
    turned = AFFINE.copy()
    turned[:2, :2] = 1.5 * np.array([[0, -1], [-1, 0]])
    assert "another grid" in error(pair(affines={"mask": turned}))


def test_masks(pair):
    assert "mask.nii.gz (key 'mask')" in error(pair(mask=np.zeros((6, 7, 4), np.uint8)))
    assert "empty mask" in error(pair(mask=np.zeros((6, 7, 4), np.uint8)))
    assert "a mask holds 0 and 1, found 255" in error(pair(mask=pair.arrays["mask"] * 255))
    assert "found 0.4" in error(pair(mask=pair.arrays["mask"] * np.float32(0.4)))
    CheckPaird()(pair(mask=pair.arrays["mask"].astype(np.float32)))
    CheckPaird()(pair(mask=np.ones((6, 7, 4), np.uint8)))


@pytest.mark.parametrize("key", ["image", "target"])
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_voxels_that_are_not_finite(pair, key, bad):
    array = pair.arrays[key].copy()
    array[0, :2, 1] = bad
    assert f"{key}.nii.gz (key {key!r})" in (message := error(pair(**{key: array})))
    assert message.endswith("2 of 168 voxels are NaN or infinite")


def test_what_is_missing(pair):
    for key in ("target", "mask"):
        message = error(pair(leave_out=(key,)))
        assert "image.nii.gz" in message and f"has no {key!r}" in message
    assert set(CheckPaird(allow_missing_keys=True)(pair(leave_out=("target", "mask")))) == {"image"}
    assert "key 'image' is missing" in error({"mask": torch.ones(1, 2, 2)}, allow_missing_keys=True)


def test_tensors_in_memory_and_other_keys():
    data = {"ct": torch.rand(1, 4, 4), "mr": torch.rand(1, 4, 4), "body": torch.ones(1, 4, 4)}
    CheckPaird("ct", "mr", "body")(data)
    flat = MetaTensor(data["ct"], affine=torch.eye(4))
    CheckPaird("ct", "mr", "body")({**data, "ct": flat, "mr": flat.clone()})
    assert "file in memory (key 'mr')" in error({**data, "mr": torch.rand(1, 4, 5)}, image_key="ct", target_key="mr")
