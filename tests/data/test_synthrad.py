"""SynthRAD2023's layout, and one CT by itself."""

import pytest

from monai_mamba_gen.data import ct_inputs, synthrad_datalist
from monai_mamba_gen.utils import DataError


@pytest.fixture
def root(tmp_path):
    for region, letter in (("brain", "B"), ("pelvis", "P")):
        for number in range(6):
            folder = tmp_path / "Task1" / region / f"1{letter}A{number:03d}"
            folder.mkdir(parents=True)
            for name in ("ct", "mr", "mask"):
                (folder / f"{name}.nii.gz").write_bytes(b"x")
        (tmp_path / "Task1" / region / "overview").mkdir()
        (tmp_path / "Task1" / region / "overview" / "1_brain_train.xlsx").write_bytes(b"x")
    return tmp_path


def names(items):
    return [item["patient"] for item in items]


def test_items(root):
    items = synthrad_datalist(root, "all", "pelvis")
    folder = root / "Task1" / "pelvis" / "1PA000"
    assert len(items) == 6 and items[0] == {
        "image": str(folder / "ct.nii.gz"),
        "target": str(folder / "mr.nii.gz"),
        "mask": str(folder / "mask.nii.gz"),
        "patient": "1PA000",
        "region": "pelvis",
    }
    assert synthrad_datalist(root / "Task1", "all", "pelvis") == items


def test_split_by_patient_within_each_region(root):
    parts = {split: synthrad_datalist(root, split, "all", 0.3, 7) for split in ("training", "validation", "all")}
    assert not set(names(parts["training"])) & set(names(parts["validation"]))
    assert sorted(names(parts["training"] + parts["validation"])) == sorted(names(parts["all"]))
    for region in ("brain", "pelvis"):
        alone = synthrad_datalist(root, "validation", region, 0.3, 7)
        assert len(alone) == 2 and alone == [item for item in parts["validation"] if item["region"] == region]


def test_one_region_alone_is_all_there_is(root):
    (root / "Task1" / "pelvis").rename(root / "elsewhere")
    assert {item["region"] for item in synthrad_datalist(root, "all", "all")} == {"brain"}
    with pytest.raises(DataError, match="Task1: has no region 'pelvis'"):
        synthrad_datalist(root, "all", "pelvis")


def test_other_endings_and_another_task(root):
    folder = root / "Task1" / "brain" / "1BA000"
    (folder / "ct.nii.gz").rename(folder / "ct.nii")
    assert synthrad_datalist(root, "all")[0]["image"] == str(folder / "ct.nii")
    (root / "Task1").rename(root / "Task7")
    assert len(synthrad_datalist(root, "all", task="Task7")) == 6
    with pytest.raises(DataError, match="expected the folder Task1/brain or Task1/pelvis"):
        synthrad_datalist(root, "all")


@pytest.mark.parametrize(("name", "key"), [("ct", "image"), ("mr", "target"), ("mask", "mask")])
def test_a_missing_file_is_named(root, name, key):
    missing = root / "Task1" / "brain" / "1BA003" / f"{name}.nii.gz"
    missing.unlink()
    with pytest.raises(DataError) as caught:
        synthrad_datalist(root, "all")
    assert str(caught.value) == f"{missing} (key {key!r}): is missing"
    if name == "ct":
        with pytest.raises(DataError, match="is missing"):
            synthrad_datalist(root, "all", require_target=False)
    else:
        assert [key in item for item in synthrad_datalist(root, "all", require_target=False)].count(False) == 1


def test_errors(root, tmp_path):
    (tmp_path / "empty" / "brain").mkdir(parents=True)
    for given, message in (
        ({"dataset_dir": ""}, "dataset_dir is not given"),
        ({"dataset_dir": root / "absent"}, "no such folder"),
        ({"dataset_dir": tmp_path / "empty"}, "brain: no patient folders in it"),
        ({"dataset_dir": root, "region": "heart"}, "region must be one of"),
        ({"dataset_dir": root, "split": "test"}, "split must be one of"),
        ({"dataset_dir": root, "val_fraction": 1.0}, "val_fraction must be"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            synthrad_datalist(**given)
        assert "\n" not in str(caught.value)


def test_inputs_of_a_data_set(root):
    for path in root.rglob("m*.nii.gz"):
        path.unlink()
    items = ct_inputs(root)
    assert len(items) == 12 and set(items[0]) == {"image", "patient", "region"}
    assert names(ct_inputs(root, "validation", region="brain")) == names(
        synthrad_datalist(root, "validation", require_target=False)
    )


def test_one_file_or_one_folder(tmp_path):
    for name, patient in (("a.b.nii.gz", "a.b"), ("scan.nrrd", "scan")):
        (tmp_path / name).write_bytes(b"x")
        assert ct_inputs(image=tmp_path / name) == [{"image": str(tmp_path / name), "patient": patient, "region": ""}]
    (tmp_path / "CT_1.2").mkdir()
    given = ct_inputs(image=f"{tmp_path}/CT_1.2/", mask=tmp_path / "scan.nrrd")
    assert given[0]["patient"] == "CT_1.2" and given[0]["mask"] == str(tmp_path / "scan.nrrd")


def test_inputs_that_do_not_make_sense(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"x")
    for given, message in (
        ({}, "neither dataset_dir nor image is given"),
        ({"mask": "m.nii"}, "mask m.nii is given without image"),
        ({"dataset_dir": "d", "image": "b.nii"}, "both dataset_dir d and image b.nii"),
        ({"image": tmp_path / "b.nii"}, r"b.nii \(key 'image'\): no such file"),
        ({"image": tmp_path / "a.nii", "mask": tmp_path / "m.nii"}, r"m.nii \(key 'mask'\): no such file"),
    ):
        with pytest.raises(DataError, match=message):
            ct_inputs(**given)
