"""The split by patient: disjoint, complete, and steady when patients are added."""

from pathlib import Path

import pytest

from monai_mamba_gen.data.patient_split import check_split, split_patients
from monai_mamba_gen.utils import DataError

FOLDERS = [Path("set") / f"p{number:02d}" for number in range(20)]


def test_parts_are_disjoint_and_complete():
    for seed in range(3):
        training, validation = (split_patients(FOLDERS, split, 0.2, seed) for split in ("training", "validation"))
        assert len(validation) == 4 and sorted([*training, *validation]) == FOLDERS
    assert split_patients(FOLDERS, "validation", 0.2, 0) != split_patients(FOLDERS, "validation", 0.2, 1)
    assert split_patients(FOLDERS, "validation", 0.2, 0) != split_patients(FOLDERS, "validation", 0.2, 0, "other")
    assert split_patients(FOLDERS, "all", 0.2, 0) == FOLDERS


def test_a_new_patient_moves_at_most_one():
    before = set(split_patients(FOLDERS[:-1], "validation", 0.2, 0))
    after = set(split_patients(FOLDERS, "validation", 0.2, 0))
    assert len(before - after) <= 1


def test_neither_part_is_empty():
    for share in (0.01, 0.99):
        assert {len(split_patients(FOLDERS[:2], split, share, 0)) for split in ("training", "validation")} == {1}


def test_errors():
    with pytest.raises(DataError, match="only one patient"):
        split_patients(FOLDERS[:1], "training", 0.1, 0)
    with pytest.raises(DataError, match="split must be one of"):
        check_split("test", 0.1)
    for share in (0, 1, -0.1):
        with pytest.raises(DataError, match="val_fraction must be above 0 and below 1"):
            check_split("all", share)
