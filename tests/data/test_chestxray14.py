"""ChestX-ray14's layout: table, lists, parts that are missing, labels."""

import csv
import shutil
import warnings

import pytest

from monai_mamba_gen.data import chestxray14_datalist
from monai_mamba_gen.utils import DataError

FINDINGS = ("No Finding", "Pneumonia", "Effusion|Mass", "No Finding", "Mass")
HEADER = ["Image Index", "Finding Labels", "Follow-up #", "Patient ID", "View Position", ""]


def write_table(path, rows, header=HEADER):
    with open(path, "w", newline="", encoding="utf-8-sig") as stream:
        csv.writer(stream).writerows([header, *rows])


@pytest.fixture
def root(tmp_path):
    """Twenty patients with two images each, half of them in each of two parts; every fifth is for testing."""
    rows, lists = [], {"train_val": [], "test": []}
    for patient in range(1, 21):
        for visit in range(2):
            name = f"{patient:08d}_{visit:03d}.png"
            rows.append([name, FINDINGS[len(rows) % 5], visit, patient, "PA" if visit else "AP", ""])
            part = tmp_path / f"images_{1 + (patient > 10):03d}" / "images"
            part.mkdir(parents=True, exist_ok=True)
            (part / name).write_bytes(b"x")
            lists["test" if patient % 5 == 0 else "train_val"].append(name)
    write_table(tmp_path / "Data_Entry_2017.csv", rows)
    for name, images in lists.items():
        (tmp_path / f"{name}_list.txt").write_text("\n".join(images) + "\n")
    return tmp_path


def patients(items):
    return {item["patient"] for item in items}


def test_items(root):
    items = chestxray14_datalist(root, "all")
    assert len(items) == 40 and items[2] == {
        "image": str(root / "images_001" / "images" / "00000002_000.png"),
        "patient": "00000002",
        "group": "Effusion|Mass",
        "phase": "",
        "view": "AP",
        "class_label": 1,
    }
    assert [item["class_label"] for item in items[:5]] == [0, 1, 1, 0, 1]


def test_official_lists_and_held_out_patients(root):
    parts = {
        split: chestxray14_datalist(root, split, val_fraction=0.25) for split in ("training", "validation", "test")
    }
    assert {name: len(patients(items)) for name, items in parts.items()} == {"training": 12, "validation": 4, "test": 4}
    assert patients(parts["test"]) == {f"{n:08d}" for n in (5, 10, 15, 20)}
    assert len(set.union(*map(patients, parts.values()))) == 20 and sum(map(len, parts.values())) == 40


def test_without_the_lists_all_patients_are_split(root):
    for name in ("train_val", "test"):
        (root / f"{name}_list.txt").unlink()
    parts = [chestxray14_datalist(root, split, val_fraction=0.25) for split in ("training", "validation")]
    assert [len(patients(items)) for items in parts] == [15, 5] and not patients(parts[0]) & patients(parts[1])
    with pytest.raises(DataError, match="split='test' needs test_list.txt"):
        chestxray14_datalist(root, "test")


def test_a_patient_of_the_test_list_is_in_no_other(root):
    (root / "test_list.txt").write_text("00000001_001.png\n")
    (root / "train_val_list.txt").write_text("00000001_000.png\n00000002_000.png\n00000003_000.png\n")
    assert "00000001" not in patients(chestxray14_datalist(root)) | patients(chestxray14_datalist(root, "validation"))


def test_first_images_and_findings(root):
    assert [len(chestxray14_datalist(root, "all", n)) for n in (1, 7, 40, 34999, None)] == [1, 7, 40, 40, 40]
    masses = chestxray14_datalist(root, "all", finding="Mass")
    assert len(masses) == 16 and all("Mass" in item["group"] for item in masses)
    assert chestxray14_datalist(root, "all", 3, "Mass") == masses[:3]
    first = [chestxray14_datalist(root, split, 20) for split in ("training", "validation", "test")]
    assert sum(map(len, first)) == 20, "the number is that of all splits"


def test_classes(root):
    items = chestxray14_datalist(root, "all", classes=("No Finding", "Mass", "Effusion"))
    assert {(item["group"], item["class_label"]) for item in items} == {
        ("No Finding", 0),
        ("Mass", 1),
        ("Effusion|Mass", 1),
    }
    assert len(items) == 32, "images with none of them are left out"
    assert {item["class_label"] for item in chestxray14_datalist(root, "all", classes="Mass")} == {0}


def test_a_part_that_is_missing_is_told_once(root):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chestxray14_datalist(root, "all")
    shutil.rmtree(root / "images_002")
    with pytest.warns(
        UserWarning, match=r"20 of 40 images asked for are not there \(first: 00000011_000.png\)"
    ) as caught:
        assert len(chestxray14_datalist(root, "all")) == 20
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(chestxray14_datalist(root, "all", 20)) == 20, "those asked for are all there"
    shutil.rmtree(root / "images_001")
    with pytest.raises(DataError, match=r"none of the 40 images asked for is there \(first: 00000001_000.png\)"):
        chestxray14_datalist(root, "all")


@pytest.mark.parametrize("folder", ["images", "."])
def test_other_places_of_the_images(root, folder):
    (root / folder).mkdir(exist_ok=True)
    for path in list(root.glob("images_*/images/*.png")):
        path.rename(root / folder / path.name)
    (root / "Data_Entry_2017.csv").rename(root / "Data_Entry_2017_v2020.csv")
    assert len(chestxray14_datalist(root, "all")) == 40


def test_a_folder_without_the_table(root):
    (root / "Data_Entry_2017.csv").unlink()
    items = chestxray14_datalist(root, "all")
    assert len(items) == 40 and patients(items) == {f"{n:08d}" for n in range(1, 21)}, "patients by the names"
    assert set(items[0]) == {"image", "patient", "group", "phase", "view"}, "and no label, as none is known"
    assert len(chestxray14_datalist(root, "all", 7)) == 7
    for given in ({"finding": "Mass"}, {"classes": ("Mass",)}, {"split": "test"}):
        with pytest.raises(DataError, match=f"{next(iter(given))}=.*needs Data_Entry_2017.csv"):
            chestxray14_datalist(root, **given)


def test_bad_tables(root):
    table = root / "Data_Entry_2017.csv"
    write_table(
        table, [["a.png", "Mass", 0, 1, "PA", ""]], ["Image Index", "Finding Labels", "a", "b", "View Position"]
    )
    with pytest.raises(DataError, match="Data_Entry_2017.csv: has no column 'Patient ID'"):
        chestxray14_datalist(root)
    write_table(table, [["a.png"]])
    with pytest.raises(DataError, match="row 2 names no image or no patient"):
        chestxray14_datalist(root)
    write_table(table, [])
    with pytest.raises(DataError, match="has no rows"):
        chestxray14_datalist(root)
    table.write_bytes(b"")
    with pytest.raises(DataError, match="has no column 'Image Index'"):
        chestxray14_datalist(root)


def test_errors(root, tmp_path):
    (tmp_path / "empty").mkdir()
    for given, message in (
        ({"dataset_dir": ""}, "dataset_dir is not given"),
        ({"dataset_dir": root / "absent"}, "no such folder"),
        ({"dataset_dir": tmp_path / "empty"}, "no image in it"),
        ({"dataset_dir": root, "split": "train"}, "split must be one of .*'test'"),
        ({"dataset_dir": root, "num_images": -1}, "num_images must be"),
        ({"dataset_dir": root, "num_images": "10"}, "num_images must be"),
        ({"dataset_dir": root, "finding": "Flu"}, "no image has the finding 'Flu', there are Effusion, Mass, No"),
        ({"dataset_dir": root, "classes": ("Mass", "Flu")}, "no image has the finding 'Flu'"),
        ({"dataset_dir": root, "finding": "Pneumonia", "classes": ("Mass",)}, "and one of the classes"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            chestxray14_datalist(**given)
        assert "\n" not in str(caught.value)
    for name in ("train_val", "test"):
        (root / f"{name}_list.txt").write_text("nothing.png\n")
    for split, name in (("training", "train_val"), ("test", "test")):
        with pytest.raises(DataError, match=f"none of the 40 images is in {name}_list.txt"):
            chestxray14_datalist(root, split)
