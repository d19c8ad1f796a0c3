"""The list of patients: what is in it, the split, and every error in one line."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_mamba_gen.data import acdc_cine_datalist, acdc_datalist, write_acdc_phantom
from monai_mamba_gen.utils import DataError


@pytest.fixture
def root(tmp_path):
    return write_acdc_phantom(tmp_path / "phantom", 4, num_frames=5, shape=(16, 16, 2), spacing=(9.0, 9.0, 30.0))


def _error(*args, **kwargs):
    with pytest.raises(DataError) as caught:
        acdc_cine_datalist(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _folder(root):
    return root / "training" / "patient001"


def test_one_item_a_patient(root):
    items = acdc_cine_datalist(root, "all", require_labels=True)
    stem, seconds = str(_folder(root) / "patient001_"), items[0].pop("seconds_per_frame")
    es = items[0]["es_frame"]
    assert items[0] == {
        "image": f"{stem}frame01.nii.gz",
        "target": f"{stem}frame{es:02d}.nii.gz",
        "label": f"{stem}frame01_gt.nii.gz",
        "target_label": f"{stem}frame{es:02d}_gt.nii.gz",
        "series": f"{stem}4d.nii.gz",
        "patient": "patient001",
        "group": "NOR",
        "ed_frame": 1,
        "es_frame": es,
    }
    assert 0.75 / 5 < seconds < 1.05 / 5 and json.dumps(items)
    assert [item["patient"] for item in items] == [f"patient{number:03d}" for number in range(1, 5)]


def test_the_split_is_that_of_the_slices(root):
    for split in ("training", "validation"):
        patients = {item["patient"] for item in acdc_datalist(root, split, val_fraction=0.5, seed=3)}
        assert {item["patient"] for item in acdc_cine_datalist(root, split, val_fraction=0.5, seed=3)} == patients
    assert "split must be one of" in _error(root, "test")


def test_without_series_and_without_files_of_the_frames(root):
    (_folder(root) / "patient001_4d.nii.gz").unlink()
    for path in (root / "training" / "patient002").glob("*_frame*.nii.gz"):
        path.unlink()
    first, second = acdc_cine_datalist(root, "all")[:2]
    assert "series" not in first and first["seconds_per_frame"] is None
    assert second["image"] == second["target"] == second["series"] and "label" not in second


def test_missing_labels(root):
    (_folder(root) / "patient001_frame01_gt.nii.gz").unlink()
    assert "label" not in acdc_cine_datalist(root, "all")[0]
    message = _error(root, "all", require_labels=True)
    assert "patient001_frame01_gt.nii.gz (key 'label'): is missing" in message


def test_es_is_ed(root):
    path = _folder(root) / "Info.cfg"
    path.write_text("ED: 2\nES: 2\n")
    (_folder(root) / "patient001_frame02.nii.gz").touch()
    assert f"{path}: ED and ES are both frame 2" in _error(root, "all")


def test_series_of_one_frame_too_short_and_unreadable(root):
    path = _folder(root) / "patient001_4d.nii.gz"
    start = f"file {path} (key 'series'): "
    assert acdc_cine_datalist(root, "all")[0]["es_frame"] > 2
    for shape, expected in [((4, 4, 2), "has 1 frame"), ((4, 4, 2, 1), "has 1 frame"), ((4, 4, 2, 2), "has 2 frames")]:
        nib.save(nib.Nifti1Image(np.zeros(shape, np.int16), np.eye(4)), path)
        assert _error(root, "all").startswith(start + expected)
    path.write_bytes(b"nothing")
    assert _error(root, "all").startswith(start + "cannot be read")


def test_real_data(shared_data):
    items = acdc_cine_datalist(shared_data / "acdc", "all", require_labels=True)
    assert len(items) == 90 and not any("series" in item for item in items)
    items = acdc_cine_datalist(shared_data / "sunnybrook_cine", "all", require_labels=True)
    assert [(item["es_frame"], item["seconds_per_frame"]) for item in items] == [
        (10, 0.0375),
        (8, 0.03448276),
        (8, 0.046),
    ]
    assert all(Path(item["series"]).is_file() for item in items)
