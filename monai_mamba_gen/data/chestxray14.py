"""The list of images of ChestX-ray14 in its official layout, or of any folder of images."""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_mamba_gen.utils.errors import DataError

from .image_folder import check_num_images, find_images, image_folder_datalist
from .patient_split import SPLITS, check_split, split_patients

__all__ = ["NO_FINDING", "chestxray14_datalist"]

NO_FINDING = "No Finding"
"""What the table says of an image on which nothing was found."""

_SPLITS = (*SPLITS[:2], "test", *SPLITS[2:])
_TABLES = ("Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv")
_LISTS = {"training": "train_val_list.txt", "test": "test_list.txt"}
_COLUMNS = {"image": "Image Index", "group": "Finding Labels", "patient": "Patient ID", "view": "View Position"}
_PATIENT_IN_NAME = r"(?:^|/)(\d{8})_\d{3}\.\w+$"


def chestxray14_datalist(
    dataset_dir: str | os.PathLike[str],
    split: str = "training",
    num_images: int | None = 34999,
    finding: str | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
    classes: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """
    List chest X-rays of the NIH's ChestX-ray14 (Wang et al., CVPR 2017).

    Reads ``Data_Entry_2017.csv`` (or ``Data_Entry_2017_v2020.csv``), the images that it names wherever they lie below
    ``dataset_dir`` (``images_0NN/images/*.png``, ``images/*.png``), and ``train_val_list.txt`` and ``test_list.txt``
    where they are there. Images that are not on disk are left out with one warning, as downloads of the twelve parts
    are often partial. The first 34,999 images are what the parts 1 to 4 hold.

    A folder without the table may hold any images, see `image_folder_datalist`; of names such as
    ``00000013_005.png`` the first eight digits are the patient.

    Args:
        dataset_dir: the download's folder, or any folder of images.
        split: "training" is the images of the official training list without those of held-out patients; "validation"
            is those of the held-out patients; "test" the official test list; "all" everything. Where the lists are
            missing, training and validation are of all patients. No two of the three share a patient.
        num_images: only the first so many images, in the order of the table, of those that ``finding`` and ``classes``
            leave, before they are split; None for all. 34,999 is the number of the paper on VM-DDPM.
        finding: only images with this finding, alone or among others, such as "Pneumonia" or "No Finding".
        val_fraction: share of the patients of the training list that is held out, above 0 and below 1; at least one
            patient, and at least one is left for training.
        seed: seed of the choice of held-out patients.
        classes: findings whose place in this list is the class label. An image with several gets the first of them; an
            image with none of them is left out. Default: label 0 is no finding, 1 is any finding.

    Returns:
        One dict per image: ``image`` (path), ``patient``, ``group`` (findings, separated by "|"), ``phase`` "",
        ``view`` ("PA" or "AP") and ``class_label`` (int).

    Raises:
        DataError: naming the file, folder, column or argument that is missing or wrong.

    Example:
        >>> from monai_mamba_gen.data import write_chestxray14_phantom
        >>> import tempfile
        >>> root = write_chestxray14_phantom(tempfile.mkdtemp(), num_patients=8, images_per_patient=2, size=16)
        >>> [len(chestxray14_datalist(root, split)) for split in ("training", "validation", "test", "all")]
        [10, 2, 4, 16]
    """
    if not os.fspath(dataset_dir):
        raise DataError("dataset_dir is not given: name the folder of the data set, --dataset_dir <folder>")
    check_split(split, val_fraction, _SPLITS)
    check_num_images(num_images)
    root = Path(dataset_dir)
    if not root.is_dir():
        raise DataError(f"dataset_dir {root}: no such folder")
    table = next((root / name for name in _TABLES if (root / name).is_file()), None)
    classes = (classes,) if isinstance(classes, str) else tuple(classes)
    if table is None:
        return _without_table(root, split, num_images, finding, val_fraction, seed, classes)
    rows = _chosen_rows(_read_table(table), table, finding, classes)[:num_images]
    rows = _rows_of_split(_present_rows(rows, root), root, split, val_fraction, seed)
    return [
        {
            "image": row["path"],
            "patient": row["patient"],
            "group": row["group"],
            "phase": "",
            "view": row["view"],
            "class_label": _class_label(row["group"], classes),
        }
        for row in rows
    ]


def _without_table(
    root: Path,
    split: str,
    num_images: int | None,
    finding: str | None,
    val_fraction: float,
    seed: int,
    classes: tuple[str, ...],
) -> list[dict[str, Any]]:
    asked = {"finding": finding, "classes": classes, "split": split if split == "test" else None}
    for name, value in asked.items():
        if value:
            raise DataError(f"{name}={value!r} needs {_TABLES[0]}, which is not in dataset_dir {root}")
    return image_folder_datalist(
        root, split, val_fraction, seed, patient_pattern=_PATIENT_IN_NAME, num_images=num_images
    )


def _read_table(table: Path) -> list[dict[str, str]]:
    """Return the rows of the table under this module's names."""
    try:
        with open(table, encoding="utf-8-sig", errors="replace", newline="") as stream:
            reader = csv.DictReader(stream)
            missing = [name for name in _COLUMNS.values() if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(f"{table}: has no column {missing[0]!r}")
            rows = [{key: (row[name] or "").strip() for key, name in _COLUMNS.items()} for row in reader]
    except (OSError, csv.Error) as error:
        raise DataError(f"{table}: cannot be read: {error}") from error
    for number, row in enumerate(rows, start=2):
        if not row["image"] or not row["patient"]:
            raise DataError(f"{table}: row {number} names no image or no patient")
        row["patient"] = row["patient"].zfill(8)
    if not rows:
        raise DataError(f"{table}: has no rows")
    return rows


def _chosen_rows(
    rows: list[dict[str, str]], table: Path, finding: str | None, classes: tuple[str, ...]
) -> list[dict[str, str]]:
    """Return the rows with the finding and one of the classes."""
    known = {label for row in rows for label in row["group"].split("|")}
    for name in (*([finding] if finding else []), *classes):
        if name not in known:
            raise DataError(f"{table}: no image has the finding {name!r}, there are {', '.join(sorted(known))}")
    rows = [row for row in rows if not finding or finding in row["group"].split("|")]
    rows = [row for row in rows if not classes or set(classes) & set(row["group"].split("|"))]
    if not rows:
        raise DataError(f"{table}: no image has the finding {finding!r} and one of the classes {classes}")
    return rows


def _present_rows(rows: list[dict[str, str]], root: Path) -> list[dict[str, str]]:
    """Return the rows whose image is on disk, with its path."""
    paths = {path.name: str(path) for path in reversed(find_images(root))}
    present = [{**row, "path": paths[row["image"]]} for row in rows if row["image"] in paths]
    first = next((row["image"] for row in rows if row["image"] not in paths), None)
    if not present:
        raise DataError(
            f"dataset_dir {root}: none of the {len(rows)} images asked for is there (first: {first}), expected "
            "images_001/images/*.png or images/*.png"
        )
    if first is not None:
        warnings.warn(
            f"dataset_dir {root}: {len(rows) - len(present)} of {len(rows)} images asked for are not there (first: "
            f"{first}) and are left out",
            stacklevel=3,
        )
    return present


def _rows_of_split(
    rows: list[dict[str, str]], root: Path, split: str, val_fraction: float, seed: int
) -> list[dict[str, str]]:
    """Return the rows of one split."""
    if split == "all":
        return rows
    lists = {name: _read_list(root / file) for name, file in _LISTS.items()}
    if split == "test":
        if lists["test"] is None:
            raise DataError(f"split='test' needs {_LISTS['test']}, which is not in dataset_dir {root}")
        chosen = [row for row in rows if row["image"] in lists["test"]]
    else:
        tested = {row["patient"] for row in rows if row["image"] in (lists["test"] or ())}
        chosen = [row for row in rows if row["patient"] not in tested]
        if lists["training"] is not None:
            chosen = [row for row in chosen if row["image"] in lists["training"]]
    if not chosen:
        named = _LISTS["test" if split == "test" else "training"]
        raise DataError(f"dataset_dir {root}: none of the {len(rows)} images is in {named}")
    if split == "test":
        return chosen
    folders = [root / patient for patient in sorted({row["patient"] for row in chosen})]
    patients = {path.name for path in split_patients(folders, split, val_fraction, seed, "chestxray14_split")}
    return [row for row in chosen if row["patient"] in patients]


def _read_list(path: Path) -> set[str] | None:
    if not path.is_file():
        return None
    return {line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()}


def _class_label(group: str, classes: tuple[str, ...]) -> int:
    labels = group.split("|")
    if not classes:
        return int(NO_FINDING not in labels)
    return next(number for number, name in enumerate(classes) if name in labels)
