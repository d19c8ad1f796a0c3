from __future__ import annotations

import json
import time

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_mamba_gen.data import (
    append_manifest,
    manifest_path,
    read_provenance,
    unfinished_volumes,
    volume_name,
    write_synthetic_volume,
)
from monai_mamba_gen.utils import DataError, file_sha256

PROVENANCE = {"model": "DiffMa", "seed": 3, "weights_sha256": "ab" * 32}
AFFINE = np.array([[0.0, 1.4, 0, -20], [1.2, 0, 0.1, 7], [0, 0, 8, 30], [0, 0, 0, 1]])


def write(folder, shape=(9, 7, 4), **options):
    generator = torch.Generator().manual_seed(0)
    volume, std = (torch.rand(shape, generator=generator) for _ in range(2))
    everything = {"std": std, "picture": np.zeros((8, 6), np.uint8), **options}
    return write_synthetic_volume(folder, "p1_mr", volume, AFFINE, PROVENANCE, **everything), volume, std


@pytest.mark.parametrize("shape", [(9, 7, 4), (9, 7, 1), (9, 7)])
def test_files(tmp_path, shape):
    files, volume, std = write(tmp_path, shape)
    assert list(files) == ["p1_mr.nii.gz", "p1_mr_std.nii.gz", "p1_mr.png", "p1_mr.json"]
    for name, array in (("p1_mr.nii.gz", volume), ("p1_mr_std.nii.gz", std)):
        image = nib.load(tmp_path / name)
        assert image.shape == shape and image.get_data_dtype() == np.float32
        np.testing.assert_array_equal(np.asarray(image.dataobj), array.numpy())
        np.testing.assert_allclose(image.affine, AFFINE, atol=1e-6)
        assert bytes(image.header["descrip"]).startswith(b"SYNTHETIC DiffMa seed=3 weights=abab")
    for file, digest in files.items():
        assert file_sha256(tmp_path / file) == digest
        marks = read_provenance(tmp_path / file)
        assert marks["synthetic"] is True and PROVENANCE.items() <= marks.items()
    contents = [read_provenance(tmp_path / file)["content"] for file in files]
    assert contents == ["volume", "standard deviation", "picture", "sidecar"]


def test_same_arguments_same_bytes(tmp_path, monkeypatch):
    first = write(tmp_path / "a")[0]
    monkeypatch.setattr(time, "time", lambda: 2e9)
    assert write(tmp_path / "b")[0] == first


def test_transforms_of_the_source_are_taken_over(tmp_path):
    """The quaternion of a file that ITK wrote, whose affine float32 rows can only approach."""
    turned = np.array([[0.9, -0.4358899, 0], [0.4358899, 0.9, 0], [0, 0, 1]]) @ np.diag([1.2, 1.4, 8])
    affine = np.eye(4)
    affine[:3] = np.column_stack([turned, [-20.1, 7.3, 30]])
    source = nib.Nifti1Image(np.zeros((9, 7, 4), np.int16), affine)
    source.set_qform(affine, 1)
    source.set_sform(None, 0)
    nib.save(source, tmp_path / "source.nii.gz")
    source = nib.load(tmp_path / "source.nii.gz")
    write_synthetic_volume(tmp_path, "p", np.zeros((9, 7, 4)), source.affine, {}, header=source.header)
    written = nib.load(tmp_path / "p.nii.gz")
    np.testing.assert_array_equal(written.affine, source.affine)
    assert (int(written.header["qform_code"]), int(written.header["sform_code"])) == (1, 0)
    write_synthetic_volume(tmp_path, "q", np.zeros((9, 7, 4)), AFFINE, {}, header=source.header)
    np.testing.assert_allclose(nib.load(tmp_path / "q.nii.gz").affine, AFFINE, atol=1e-6)


def test_names():
    assert volume_name("1BA001") == "1BA001_mr" and volume_name("1BA001", "mr2ct") == "1BA001_ct"
    with pytest.raises(DataError, match="patient must"):
        volume_name("../1BA001")
    with pytest.raises(ValueError, match="direction must"):
        volume_name("1BA001", "mr2mr")


def test_unfinished(tmp_path):
    data = [{"patient": "p1", "image": "a"}, {"patient": "p2", "image": "b"}]
    assert unfinished_volumes(data, tmp_path) == data
    files = write(tmp_path)[0]
    record = {"name": "p1_mr", "file": "p1_mr.nii.gz", "sha256": files["p1_mr.nii.gz"], "files": files}
    append_manifest(manifest_path(tmp_path), [record])
    assert unfinished_volumes(data, tmp_path) == data[1:]
    assert unfinished_volumes(data, tmp_path, "mr2ct") == data
    (tmp_path / "p1_mr.json").write_text("half")
    assert unfinished_volumes(data, tmp_path) == data
    with pytest.raises(DataError, match="two items would both be written as p1_mr"):
        unfinished_volumes([data[0], {**data[1], "patient": "p1"}], tmp_path)


def test_sidecar_is_text(tmp_path):
    write(tmp_path)
    assert json.loads((tmp_path / "p1_mr.json").read_text())["model"] == "DiffMa"
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(DataError, match="broken.json"):
        read_provenance(tmp_path / "broken.json")


def test_errors(tmp_path):
    for options, message in (
        ({"dtype": "uint8"}, "dtype must be"),
        ({"std": torch.zeros(9, 7)}, r"std must have the volume's shape \(9, 7, 4\), got \(9, 7\)"),
        ({"std": torch.full((9, 7, 4), torch.nan)}, "std must be .* finite"),
        ({"shape": (2, 9, 7, 4)}, "volume must be"),
    ):
        with pytest.raises(ValueError, match=message):
            write(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()
