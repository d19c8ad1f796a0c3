"""BraTS's layouts: which files are found, what is said where they are not."""

import pytest

from monai_mamba_gen.data import brats_datalist
from monai_mamba_gen.utils import DataError

KINDS = ("t1", "t1ce", "t2", "flair", "seg")


def write_cases(parent, names, kinds=KINDS, suffix=".nii.gz"):
    for name in names:
        (parent / name).mkdir(parents=True)
        for kind in kinds:
            (parent / name / f"{name}_{kind}{suffix}").write_bytes(b"x")


@pytest.fixture
def root(tmp_path):
    write_cases(tmp_path / "HGG", [f"Brats18_CBICA_A{n:02d}_1" for n in range(6)])
    write_cases(tmp_path / "LGG", [f"Brats18_TCIA09_{n}_1" for n in range(3)])
    (tmp_path / "survival_data.csv").write_text("x")
    (tmp_path / "__MACOSX").mkdir()
    return tmp_path


def names(items):
    return [item["patient"] for item in items]


def test_items_of_2018(root):
    items = brats_datalist(root, "all", "flair")
    folder = root / "LGG" / "Brats18_TCIA09_2_1"
    assert len(items) == 9 and items[-1] == {
        "image": str(folder / "Brats18_TCIA09_2_1_flair.nii.gz"),
        "label": str(folder / "Brats18_TCIA09_2_1_seg.nii.gz"),
        "patient": "Brats18_TCIA09_2_1",
        "group": "LGG",
        "phase": "flair",
    }
    assert [item["group"] for item in items] == ["HGG"] * 6 + ["LGG"] * 3
    assert all(item["image"].endswith("_t1.nii.gz") for item in brats_datalist(root, "all", "t1")), "t1 is not t1ce"


@pytest.mark.parametrize("top", ["MICCAI_BraTS_2018_Data_Training", "archive/MICCAI_BraTS_2018_Data_Training"])
def test_below_other_folders(root, tmp_path, top):
    inner = tmp_path / "outer" / top
    inner.mkdir(parents=True)
    for name in ("HGG", "LGG"):
        (root / name).rename(inner / name)
    assert len(brats_datalist(tmp_path / "outer", "all")) == 9


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_flat_layout(tmp_path, suffix):
    write_cases(tmp_path, ["BraTS2021_00000", "BraTS20_Training_001"], suffix=suffix)
    (tmp_path / "notes").mkdir()
    items = brats_datalist(tmp_path, "all")
    assert names(items) == ["BraTS2021_00000", "BraTS20_Training_001"] and {item["group"] for item in items} == {""}
    assert items[0]["image"].endswith(f"BraTS2021_00000_t1ce{suffix}") and items[0]["label"].endswith(f"_seg{suffix}")


def test_validation_cases_have_no_label(tmp_path):
    write_cases(tmp_path, ["Brats18_ABC_1", "Brats18_ABD_1"], KINDS[:-1])
    assert all("label" not in item for item in brats_datalist(tmp_path, "all"))


def test_split_by_patient(root):
    parts = {split: names(brats_datalist(root, split, "t2", 0.3, 7)) for split in ("training", "validation", "all")}
    assert len(parts["validation"]) == 3 and not set(parts["training"]) & set(parts["validation"])
    assert sorted(parts["training"] + parts["validation"]) == sorted(parts["all"])
    assert names(brats_datalist(root, "validation", "t1", 0.3, 7)) == parts["validation"], "whatever the modality"
    assert names(brats_datalist(root, "validation", "t1", 0.3, 8)) != parts["validation"]


def test_a_missing_modality_is_named(root):
    missing = root / "HGG" / "Brats18_CBICA_A03_1" / "Brats18_CBICA_A03_1_t2.nii.gz"
    missing.unlink()
    with pytest.raises(DataError) as caught:
        brats_datalist(root, "all", "t2")
    assert str(caught.value) == f"{missing} (key 'image'): is missing"
    assert len(brats_datalist(root, "all", "t1")) == 9


def test_files_named_otherwise(root):
    folder = root / "HGG" / "Brats18_CBICA_A03_1"
    (folder / "Brats18_CBICA_A03_1_t2.nii.gz").rename(folder / "W39_t2.nii")
    assert str(folder / "W39_t2.nii") in [item["image"] for item in brats_datalist(root, "all", "t2")]


def test_errors(root, tmp_path):
    (tmp_path / "empty").mkdir()
    write_cases(tmp_path / "two" / "Training", ["BraTS20_Training_001"])
    write_cases(tmp_path / "two" / "Validation", ["BraTS20_Validation_001"])
    write_cases(tmp_path / "one", ["BraTS2021_00000"])
    for given, message in (
        ({"dataset_dir": ""}, "dataset_dir is not given"),
        ({"dataset_dir": root / "absent"}, "no such folder"),
        ({"dataset_dir": tmp_path / "empty"}, r"no cases in it, expected HGG/<case>/<case>_t1ce.nii.gz"),
        ({"dataset_dir": tmp_path / "two"}, r"cases in several folders of it \(Training, Validation\), name one"),
        ({"dataset_dir": tmp_path / "one"}, "only one patient"),
        ({"dataset_dir": root, "modality": "t1c"}, "modality must be one of"),
        ({"dataset_dir": root, "split": "test"}, "split must be one of"),
        ({"dataset_dir": root, "val_fraction": 0.0}, "val_fraction must be"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            brats_datalist(**given)
        assert "\n" not in str(caught.value)
