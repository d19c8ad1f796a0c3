"""Phantom chest X-rays on disk, in ChestX-ray14's own layout, so that one reader serves phantoms and patients."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from monai_mamba_gen.utils.seeding import derive_seed

from .chest_phantom import CHEST_FINDINGS, chest_phantom
from .chestxray14 import NO_FINDING
from .phantom_folder import write_phantom_folder

__all__ = ["phantom_chestxray14_dir", "write_chestxray14_phantom"]

_VERSION = 1
_COLUMNS = (
    *("Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender", "View Position"),
    *("OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]", ""),
)
_RGBA_EVERY = 7  # some hundred files of the real data set hold grey pictures as RGBA
_FIELD_OF_VIEW = 400.0  # mm


def write_chestxray14_phantom(
    root: str | os.PathLike[str],
    num_patients: int = 8,
    images_per_patient: int = 2,
    size: int = 64,
    seed: int = 0,
) -> Path:
    """
    Write phantom chest X-rays with the files of an unpacked ChestX-ray14.

    These are ``images_001/images/*.png``, ``images_002/images/*.png`` (8 bits), ``Data_Entry_2017.csv``,
    ``train_val_list.txt`` and ``test_list.txt``; every fourth patient is in the test list. About half of the images
    show a finding. As in the real data set, some grey pictures are stored as RGBA. Files appear all at once; where the
    same phantom is there already, nothing is written.

    Args:
        root: folder to make; it may exist when it is empty or holds the same phantom.
        num_patients: at least 1.
        images_per_patient: at least 1 and at most 1000.
        size: rows and columns of an image, at least 16.
        seed: the same arguments give the same files.

    Returns:
        ``root``, for `chestxray14_datalist`.

    Raises:
        DataError: when ``root`` holds something else.
        ValueError: when an argument is outside what is allowed.

    Example:
        >>> import tempfile
        >>> root = write_chestxray14_phantom(tempfile.mkdtemp(), num_patients=2, images_per_patient=1, size=16)
        >>> sorted(path.name for path in root.glob("images_*/images/*"))
        ['00000001_000.png', '00000002_000.png']
    """
    for name, value, most in (
        ("num_patients", num_patients, 10**8 - 1),
        ("images_per_patient", images_per_patient, 1000),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise ValueError(f"{name} must be an integer from 1 to {most}, got {value!r}")
    parameters = {
        "kind": "chestxray14",
        "version": _VERSION,
        "num_patients": num_patients,
        "images_per_patient": images_per_patient,
        "size": size,
        "seed": int(seed),
    }
    return write_phantom_folder(root, parameters, lambda folder: _write(folder, parameters))


def phantom_chestxray14_dir(dataset_dir: str | os.PathLike[str], **kwargs: Any) -> str:
    """
    Return ``dataset_dir`` after making sure that the phantom data set is in it; for bundle configs.

    Args:
        dataset_dir: folder of the phantom.
        kwargs: arguments of `write_chestxray14_phantom`.

    Raises:
        DataError: when the folder holds something else.
    """
    return str(write_chestxray14_phantom(dataset_dir, **kwargs))


def _write(folder: Path, parameters: dict[str, Any]) -> None:
    rows, lists = [], {"train_val_list.txt": [], "test_list.txt": []}
    for number in range(1, parameters["num_patients"] + 1):
        part = folder / ("images_001" if 2 * number <= parameters["num_patients"] + 1 else "images_002") / "images"
        part.mkdir(parents=True, exist_ok=True)
        patient = _patient_rows(number, parameters)
        for findings, row in patient:
            picture = chest_phantom(
                derive_seed(parameters["seed"], "chestxray14_phantom", number),
                parameters["size"],
                findings,
                int(row["Follow-up #"]),
            )
            image = Image.fromarray(picture)
            rgba = len(rows) % _RGBA_EVERY == _RGBA_EVERY - 1
            (image.convert("RGBA") if rgba else image).save(part / row["Image Index"])
            rows.append(row)
        lists["test_list.txt" if number % 4 == 0 else "train_val_list.txt"] += [
            row["Image Index"] for _, row in patient
        ]
    with open(folder / "Data_Entry_2017.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, _COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)
    for name, images in lists.items():
        (folder / name).write_text("".join(f"{image}\n" for image in images))


def _patient_rows(number: int, parameters: dict[str, Any]) -> list[tuple[tuple[str, ...], dict[str, str]]]:
    """Return the findings and the row of the table of each image of one patient."""
    rng = np.random.default_rng(derive_seed(parameters["seed"], "chestxray14_phantom", "table", number))
    age, gender, rows = int(rng.integers(20, 85)), str(rng.choice(("F", "M"))), []
    spacing = f"{_FIELD_OF_VIEW / parameters['size']:.3f}"
    for follow_up in range(parameters["images_per_patient"]):
        # Patient by patient and visit by visit, images without and with finding take turns.
        count = 0 if (number + follow_up) % 2 else int(rng.choice((1, 1, 1, 2)))
        findings = tuple(sorted(rng.choice(CHEST_FINDINGS, count, replace=False).tolist()))
        values = (
            *(f"{number:08d}_{follow_up:03d}.png", "|".join(findings) or NO_FINDING, str(follow_up), str(number)),
            *(str(age), gender, str(rng.choice(("PA", "PA", "AP")))),
            *(str(parameters["size"]), str(parameters["size"]), spacing, spacing),
        )
        rows.append((findings, dict(zip(_COLUMNS, values, strict=False))))
    return rows
