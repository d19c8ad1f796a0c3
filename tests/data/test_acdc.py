"""The list of ACDC's volumes: layout, split, and every error in one line."""

import shutil
import warnings
from pathlib import Path

import pytest

from monai_mamba_gen.data import acdc_datalist
from monai_mamba_gen.utils import DataError

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


def _patient(parent, name, frames=(1, 9), series=True, labels=True, info="ED: 1\nES: 9\nGroup: NOR\nNbFrame: 20\n"):
    folder = parent / name
    folder.mkdir(parents=True)
    if info is not None:
        (folder / "Info.cfg").write_text(info)
    names = [f"{name}_frame{frame:02d}" for frame in frames]
    names += [f"{stem}_gt" for stem in names if labels] + ([f"{name}_4d"] if series else [])
    for stem in names:
        (folder / f"{stem}.nii.gz").touch()
    return folder


def _data_set(root, count=10, **kwargs):
    for number in range(1, count + 1):
        _patient(root / "training", f"patient{number:03d}", **kwargs)
    return root


def _error(*args, **kwargs):
    with pytest.raises(DataError) as caught:
        acdc_datalist(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_ed_es(tmp_path):
    items = acdc_datalist(_data_set(tmp_path, 2), split="all")
    folder = tmp_path / "training" / "patient001"
    assert items[0] == {
        "image": str(folder / "patient001_frame01.nii.gz"),
        "label": str(folder / "patient001_frame01_gt.nii.gz"),
        "patient": "patient001",
        "frame": 1,
        "phase": "ED",
        "group": "NOR",
        "series": False,
    }
    assert [(item["patient"][-1], item["phase"], item["frame"]) for item in items] == [
        ("1", "ED", 1),
        ("1", "ES", 9),
        ("2", "ED", 1),
        ("2", "ES", 9),
    ]


def test_whole_series(tmp_path):
    items = acdc_datalist(_data_set(tmp_path, 2), split="all", phases="all")
    assert [(item["phase"], item["frame"], item["series"]) for item in items] == [("4D", None, True)] * 2
    assert items[1]["image"].endswith("patient002_4d.nii.gz") and "label" not in items[1]


def test_frames_from_the_series_and_series_from_the_frames(tmp_path):
    _patient(tmp_path, "a", frames=(1,))
    _patient(tmp_path, "b", series=False)
    items = acdc_datalist(tmp_path, split="all")
    assert [(Path(item["image"]).name, item["frame"], item["series"]) for item in items[:2]] == [
        ("a_frame01.nii.gz", 1, False),
        ("a_4d.nii.gz", 9, True),
    ]
    with pytest.warns(UserWarning, match="1 of 2 patients in .* no 4D series \\(first: b\\)") as caught:
        items = acdc_datalist(tmp_path, split="all", phases="all")
    assert len(caught) == 1 and [item["phase"] for item in items] == ["4D", "ED", "ES"]


def test_other_places_and_names(tmp_path):
    _patient(tmp_path / "testing", "x", labels=False)
    _patient(tmp_path / "testing", "y")
    (tmp_path / "testing" / "MANDATORY_CITATION").mkdir()
    expected = ["x", "x", "y", "y"]
    assert [i["patient"] for i in acdc_datalist(tmp_path, split="all", section="testing")] == expected
    assert [i["patient"] for i in acdc_datalist(str(tmp_path / "testing"), split="all")] == expected
    unpacked = tmp_path / "testing" / "x" / "x_4d.nii"
    (tmp_path / "testing" / "x" / "x_4d.nii.gz").rename(unpacked)
    assert acdc_datalist(tmp_path / "testing", split="all", phases="all")[0]["image"] == str(unpacked)


def test_split(tmp_path):
    root = _data_set(tmp_path, 20)

    def patients(split, **kwargs):
        return {item["patient"] for item in acdc_datalist(root, split=split, **kwargs)}

    everyone = patients("all")
    for fraction, count in ((0.1, 2), (0.01, 1), (0.5, 10), (0.999, 19)):
        held_out, rest = patients("validation", val_fraction=fraction), patients("training", val_fraction=fraction)
        assert len(held_out) == count and not held_out & rest and held_out | rest == everyone
    assert patients("validation") == patients("validation")
    assert len({frozenset(patients("validation", seed=seed)) for seed in range(8)}) > 4
    before = patients("validation", val_fraction=0.3)
    for number in range(21, 24):
        _patient(root / "training", f"patient{number:03d}")
    assert len(before - patients("validation", val_fraction=0.3)) <= 3, "newcomers take at most their own places"


def test_two_patients_make_both_splits(tmp_path):
    root = _data_set(tmp_path, 2)
    assert len(acdc_datalist(root, "training")) == len(acdc_datalist(root, "validation")) == 2


def test_errors_about_folders(tmp_path):
    assert _error(tmp_path / "none") == f"dataset_dir {tmp_path / 'none'}: no such folder"
    assert f"{tmp_path}: no patient folders" in _error(tmp_path)
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "readme").mkdir()
    assert f"{tmp_path / 'training'}: no patient folders" in _error(tmp_path)
    _patient(tmp_path / "training", "patient001")
    assert "only one patient, split='training' needs" in _error(tmp_path)
    assert len(acdc_datalist(tmp_path, "all")) == 2


def test_errors_about_patients(tmp_path):
    root = _data_set(tmp_path, 3)
    folder = root / "training" / "patient002"
    info = folder / "Info.cfg"
    for content, reason in (
        ("ES: 9\n", "has no line 'ED:"),
        ("ED: 1\n", "has no line 'ES:"),
        ("ED: one\nES: 9\n", "ED must be a frame number"),
        ("ED: 0\nES: 9\n", "ED must be a frame number"),
        ("", "has no line"),
    ):
        info.write_text(content)
        assert _error(root, "all").startswith(f"{info}: ") and reason in _error(root, "all")
    info.unlink()
    assert _error(root, "all") == f"patient folder {folder}: Info.cfg is missing"
    shutil.rmtree(folder)
    folder.mkdir()
    assert _error(root, "all") == f"patient folder {folder}: Info.cfg is missing"
    shutil.rmtree(folder)
    _patient(root / "training", "patient002", frames=(1,), series=False)
    missing = _error(root, "all")
    assert missing.startswith(str(folder / "patient002_frame09.nii.gz")) and "names frame 9 as ES" in missing


@pytest.mark.parametrize("kwargs", [{"split": "train"}, {"phases": "es"}, {"val_fraction": 0.0}, {"val_fraction": 1.0}])
def test_errors_about_arguments(tmp_path, kwargs):
    name, value = next(iter(kwargs.items()))
    message = _error(_data_set(tmp_path, 2), **kwargs)
    assert message.startswith(name) and repr(value) in message


def test_real_acdc():
    if not (REAL / "acdc").is_dir():
        pytest.skip("real ACDC volumes are not here (../shared/data/acdc)")
    everything = acdc_datalist(REAL / "acdc", "all")
    assert len(everything) == 180 and len({item["patient"] for item in everything}) == 90
    assert all(Path(item["image"]).is_file() and Path(item["label"]).is_file() for item in everything)
    assert len(acdc_datalist(REAL / "acdc", "validation")) == 18
    with pytest.warns(UserWarning, match="90 of 90 patients"):
        assert len(acdc_datalist(REAL / "acdc", "all", phases="all")) == 180


def test_real_sunnybrook_cine():
    if not (REAL / "sunnybrook_cine").is_dir():
        pytest.skip("real cine series are not here (../shared/data/sunnybrook_cine)")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for folder in (REAL / "sunnybrook_cine", REAL / "sunnybrook_cine" / "training"):
            assert len(acdc_datalist(folder, "all")) == 6
            series = acdc_datalist(folder, "all", phases="all")
            assert [item["phase"] for item in series] == ["4D"] * 3 and series[0]["group"] == "HF"
