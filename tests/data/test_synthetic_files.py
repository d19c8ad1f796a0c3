from __future__ import annotations

import hashlib
import json
import time

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from monai_mamba_gen.data import read_provenance, write_synthetic_image
from monai_mamba_gen.utils import DataError

PROVENANCE = {"model": "vm_ddpm", "version": "0.1.0", "weights_sha256": "ab" * 32, "seed": 12, "steps": 50}
AFFINE = np.diag([1.5, 1.25, 8.0, 1.0])


def random_image(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 4), (8, 6, 1, 5)])
def test_nifti(tmp_path, extension, shape):
    path, image = tmp_path / f"new/image{extension}", random_image(*shape)
    digest = write_synthetic_image(path, image, AFFINE, PROVENANCE)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    read = nib.load(path)
    assert read.shape == shape and read.get_data_dtype() == np.float32
    np.testing.assert_array_equal(read.get_fdata(dtype=np.float32), image.numpy())
    np.testing.assert_allclose(read.affine, AFFINE)
    assert bytes(read.header["descrip"]).startswith(b"SYNTHETIC vm_ddpm seed=12 weights=abab")
    assert [extension.get_code() for extension in read.header.extensions] == [6]
    assert read_provenance(path) == {**PROVENANCE, "synthetic": True}
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_int16_nifti(tmp_path):
    image = random_image(8, 6)
    write_synthetic_image(tmp_path / "image.nii.gz", image, AFFINE, PROVENANCE, dtype="int16")
    read = nib.load(tmp_path / "image.nii.gz")
    assert read.get_data_dtype() == np.int16
    np.testing.assert_allclose(read.get_fdata(), image.numpy(), atol=2 / 65535)
    write_synthetic_image(tmp_path / "flat.nii", torch.full((4, 4), 0.5), AFFINE, PROVENANCE, dtype="int16")
    np.testing.assert_allclose(nib.load(tmp_path / "flat.nii").get_fdata(), 0.5, atol=1e-6)


@pytest.mark.parametrize(("dtype", "levels"), [("uint8", 255), ("uint16", 65535)])
def test_png(tmp_path, dtype, levels):
    path, image = tmp_path / "image.png", random_image(8, 6)
    image[0, :3] = torch.tensor([-1.0, 1.0, 7.0])
    digest = write_synthetic_image(path, image, None, PROVENANCE, dtype=dtype)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    with Image.open(path) as read:
        pixels = np.asarray(read).T
        text = read.text
    assert pixels.shape == (8, 6) and pixels.dtype == dtype and pixels[0, :3].tolist() == [0, levels, levels]
    np.testing.assert_allclose(pixels[1:] / levels * 2 - 1, image[1:].numpy(), atol=1.01 / levels)
    assert text["Synthetic"] == "true" and text["DigitalSourceType"] == "trainedAlgorithmicMedia"
    assert json.loads(text["Provenance"]) == read_provenance(path) == {**PROVENANCE, "synthetic": True}


@pytest.mark.parametrize("extension", [".nii", ".nii.gz", ".png"])
def test_same_arguments_same_bytes(tmp_path, extension, monkeypatch):
    first = write_synthetic_image(tmp_path / f"a{extension}", random_image(8, 6), AFFINE, PROVENANCE)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    reordered = dict(reversed(PROVENANCE.items()))
    second = write_synthetic_image(tmp_path / f"b{extension}", random_image(8, 6), AFFINE, reordered)
    assert first == second
    assert first != write_synthetic_image(tmp_path / f"c{extension}", random_image(8, 6), AFFINE, {"seed": 1})


def test_long_names_fit_the_header(tmp_path):
    write_synthetic_image(tmp_path / "a.nii", random_image(4, 4), AFFINE, {"model": "ö" * 200})
    description = bytes(nib.load(tmp_path / "a.nii").header["descrip"]).rstrip(b"\x00")
    assert description.startswith(b"SYNTHETIC ?") and len(description) <= 79
    assert read_provenance(tmp_path / "a.nii")["model"] == "ö" * 200


def test_errors(tmp_path):
    image = random_image(4, 4)
    with pytest.raises(ValueError, match="extension must be one of"):
        write_synthetic_image(tmp_path / "a.jpg", image, None, {})
    with pytest.raises(ValueError, match="dtype of .png must be"):
        write_synthetic_image(tmp_path / "a.png", image, None, {}, dtype="float32")
    with pytest.raises(ValueError, match="must be finite"):
        write_synthetic_image(tmp_path / "a.nii", image / 0, None, {})
    with pytest.raises(ValueError, match="a PNG holds"):
        write_synthetic_image(tmp_path / "a.png", random_image(4, 4, 4), None, {})
    with pytest.raises(ValueError, match="low < high"):
        write_synthetic_image(tmp_path / "a.png", image, None, {}, value_range=(1, 1))
    assert not list(tmp_path.iterdir())
    nib.Nifti1Image(image.numpy(), AFFINE).to_filename(tmp_path / "real.nii")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "real.png")
    (tmp_path / "broken.nii.gz").write_bytes(b"no")
    for name in ("real.nii", "real.png", "broken.nii.gz", "missing.png"):
        with pytest.raises(DataError, match=name):
            read_provenance(tmp_path / name)
