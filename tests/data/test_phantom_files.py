"""Phantoms on disk: ACDC's layout and header, atomic, never over somebody's files."""

import hashlib

import nibabel as nib
import numpy as np
import pytest

from monai_mamba_gen.data import acdc_datalist, phantom_dataset_dir, write_acdc_phantom
from monai_mamba_gen.data import phantom_files as module
from monai_mamba_gen.utils import DataError

TINY = {"num_patients": 2, "num_frames": 3, "shape": (24, 24, 3), "spacing": (6.0, 6.0, 20.0)}


def _digests(root):
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_layout_and_headers(tmp_path):
    root = write_acdc_phantom(tmp_path / "new" / "phantom", **TINY)
    folder = root / "training" / "patient001"
    info = dict(line.split(": ") for line in (folder / "Info.cfg").read_text().splitlines())
    assert list(info) == ["ED", "ES", "Group", "Height", "NbFrame", "Weight"]
    assert info["ED"] == "1" and info["NbFrame"] == "3" and info["Group"] == "NOR"
    series = nib.load(folder / "patient001_4d.nii.gz")
    assert series.shape == (24, 24, 3, 3) and series.get_data_dtype() == np.int16
    assert series.header.get_xyzt_units() == ("mm", "sec")
    assert series.header.get_zooms()[:3] == (6, 6, 20) and 0.2 < series.header.get_zooms()[3] < 0.4
    for frame in (int(info["ED"]), int(info["ES"])):
        stem = f"patient001_frame{frame:02d}"
        image, label = nib.load(folder / f"{stem}.nii.gz"), nib.load(folder / f"{stem}_gt.nii.gz")
        assert np.array_equal(np.asarray(image.dataobj), np.asarray(series.dataobj)[..., frame - 1])
        assert image.header.get_zooms() == label.header.get_zooms() == (6, 6, 20)
        assert np.allclose(image.affine, series.affine) and np.allclose(label.affine, series.affine)
        assert set(np.unique(np.asarray(label.dataobj))) == {0, 1, 2, 3}


def test_deterministic_and_patient_independent_of_their_number(tmp_path):
    first = _digests(write_acdc_phantom(tmp_path / "a", **TINY))
    assert first == _digests(write_acdc_phantom(tmp_path / "b", **TINY))
    more = _digests(write_acdc_phantom(tmp_path / "c", **{**TINY, "num_patients": 3}))
    assert {name: value for name, value in first.items() if "patient00" in name}.items() <= more.items()
    other = _digests(write_acdc_phantom(tmp_path / "d", seed=1, **TINY))
    assert first["training/patient001/patient001_4d.nii.gz"] != other["training/patient001/patient001_4d.nii.gz"]


def test_complete_phantom_is_left_alone(tmp_path, monkeypatch):
    root = tmp_path / "phantom"
    assert phantom_dataset_dir(root, **TINY) == str(root)
    monkeypatch.setattr(module, "cardiac_phantom", None)
    assert phantom_dataset_dir(str(root), **TINY) == str(root)
    assert len(acdc_datalist(root, split="all")) == 4


def test_refuses_other_content(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=f"{tmp_path} exists and is not a phantom"):
        write_acdc_phantom(tmp_path, **TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(DataError, match="is not a phantom"):
        write_acdc_phantom(tmp_path / "notes.txt", **TINY)
    root = write_acdc_phantom(tmp_path / "phantom", **TINY)
    with pytest.raises(DataError, match="other parameters .*seed 0"):
        write_acdc_phantom(root, seed=5, **TINY)


def test_empty_folder_is_used_and_failure_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    root = tmp_path / "phantom"
    root.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(module, "_save", fail)
        with pytest.raises(KeyboardInterrupt):
            write_acdc_phantom(root, **TINY)
    assert list(tmp_path.rglob("*")) == [root]
    write_acdc_phantom(root, **TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["phantom"]


def test_two_processes_may_write_the_same(tmp_path, monkeypatch):
    """The second to finish finds the first one's result and keeps it."""
    root, real = tmp_path / "phantom", module._write_patient

    def overtaken(folder, number, parameters):
        monkeypatch.setattr(module, "_write_patient", real)
        write_acdc_phantom(root, **TINY)
        real(folder, number, parameters)

    monkeypatch.setattr(module, "_write_patient", overtaken)
    write_acdc_phantom(root, **TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["phantom"]


def test_bad_number(tmp_path):
    with pytest.raises(ValueError, match="num_patients"):
        write_acdc_phantom(tmp_path / "a", num_patients=0)
