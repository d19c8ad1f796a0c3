"""CheckVolumed: what it refuses, in which words, and what it lets pass."""

import struct

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from PIL import Image

from monai_mamba_gen.transforms import CheckVolumed
from monai_mamba_gen.utils import DataError


def _save(path, array, spacing=(1.5, 1.5, 10.0)):
    image = nib.Nifti1Image(array, np.diag([*spacing, 1.0]))
    nib.save(image, path)
    return str(path)


def _check(path, **kwargs):
    item = {"image": path, **kwargs.pop("item", {})}
    load = Compose([LoadImaged("image"), EnsureChannelFirstd("image")])
    return CheckVolumed("image", **kwargs)(load(item))["image"]


def _error(path, **kwargs):
    with pytest.raises(DataError) as caught:
        _check(path, **kwargs)
    message = str(caught.value)
    assert str(path) in message and "key 'image'" in message and "\n" not in message
    return message


def _volume(shape=(8, 8, 3)):
    return np.random.default_rng(0).random(shape, dtype=np.float32)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 3), (8, 8, 5), (8, 8, 4, 3), (8, 8, 4, 6), (8, 8, 4, 1)])
def test_plain_images_volumes_and_series_pass(tmp_path, shape):
    path = _save(tmp_path / "a.nii.gz", _volume(shape))
    assert _check(path).shape[0] == (shape[3] if len(shape) == 4 else 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_voxels_are_counted(tmp_path, bad):
    array = _volume()
    array[0, :3, 1] = bad
    assert "3 of 192 voxels are NaN or infinite" in _error(_save(tmp_path / "a.nii.gz", array))


def test_constant_volume(tmp_path):
    path = _save(tmp_path / "a.nii.gz", np.full((8, 8, 3), 7, np.int16))
    assert "constant volume, every voxel is 7" in _error(path)
    assert _check(path, allow_constant=True).shape == (1, 8, 8, 3)


def test_rank(tmp_path):
    assert "2 spatial dimensions (8, 8)" in _error(_save(tmp_path / "a.nii.gz", _volume((8, 8))), allowed_ndim=3)


@pytest.mark.parametrize("raw", [(0.0, 1.5, 10.0), (1.5, -1.5, 10.0), (1.5, 1.5, 0.0)])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_zero_and_negative_spacing_that_nibabel_repairs(tmp_path, raw, name):
    content = bytearray((open(_save(tmp_path / "good.nii", _volume()), "rb")).read())
    struct.pack_into("<3f", content, 80, *raw)
    (tmp_path / "a.nii").write_bytes(content)
    if name.endswith(".gz"):
        with nib.openers.ImageOpener(tmp_path / name, "wb") as stream:
            stream.write(bytes(content))
    assert "spacing must be above 0 mm" in _error(str(tmp_path / name))


def test_spacing_of_a_tensor_in_memory():
    volume = MetaTensor(torch.rand(1, 4, 4, 2), affine=torch.diag(torch.tensor([1.0, 0.0, 1.0, 1.0])))
    with pytest.raises(DataError, match="in memory.*spacing"):
        CheckVolumed("image")({"image": volume})


def test_vector_image_by_fifth_axis_and_by_intent(tmp_path):
    assert "3 channels (a colour or vector image)" in _error(_save(tmp_path / "a.nii.gz", _volume((8, 8, 4, 1, 3))))
    image = nib.Nifti1Image(_volume((8, 8, 4, 3)), np.eye(4))
    image.header.set_intent("vector")
    nib.save(image, tmp_path / "b.nii.gz")
    assert "colour or vector" in _error(str(tmp_path / "b.nii.gz"))


def test_colour_png_is_refused_and_grey_png_passes(tmp_path):
    array = (_volume((8, 8, 3)) * 255).astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "colour.png")
    Image.fromarray(array[..., 0]).save(tmp_path / "grey.png")
    assert "3 channels" in _error(str(tmp_path / "colour.png"))
    assert _check(str(tmp_path / "grey.png")).shape == (1, 8, 8)


def test_channels_in_a_file_that_should_hold_one_frame(tmp_path):
    path = _save(tmp_path / "a.nii.gz", _volume((8, 8, 4, 3)))
    assert "3 channels in a file of one frame" in _error(path, item={"series": False})
    assert _check(path, item={"series": True}).shape == (3, 8, 8, 4)


def test_missing_keys():
    with pytest.raises(KeyError):
        CheckVolumed("image")({})
    assert CheckVolumed("image", allow_missing_keys=True)({}) == {}
