"""The list of images in any folder."""

from __future__ import annotations

import fnmatch
import os
import re
from pathlib import Path
from typing import Any

from monai_mamba_gen.utils.errors import DataError

from .patient_split import check_split, split_patients

__all__ = ["IMAGE_SUFFIXES", "find_images", "image_folder_datalist"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".nii", ".nii.gz")
"""Endings of the files that count as images, in any case."""


def image_folder_datalist(
    dataset_dir: str | os.PathLike[str],
    split: str = "training",
    val_fraction: float = 0.1,
    seed: int = 0,
    pattern: str = "*",
    patient_pattern: str | None = None,
    num_images: int | None = None,
) -> list[dict[str, Any]]:
    r"""
    List every image below a folder, sorted by path.

    An image's patient is the sub-folder that it lies in, the first one below the folder that all images have in common
    (``dataset_dir``, or a folder in it that an archive was unpacked to). An image that lies in no sub-folder is a
    patient of its own, named after its file. So sub-folders must not be classes: those would be few "patients". Where
    file names tell the patient, say so with ``patient_pattern``.

    Args:
        dataset_dir: the folder.
        split: "training", "validation" or "all"; the first two never share a patient.
        val_fraction: share of the patients in the validation split, above 0 and below 1; at least one patient, and at
            least one is left for training.
        seed: seed of the split.
        pattern: shell pattern of the file names, such as "*_T1w.nii.gz"; files without an ending of `IMAGE_SUFFIXES`
            are never listed.
        patient_pattern: regular expression whose first group, searched in the path below the common folder, is
            the patient; images without it follow the rule above.
        num_images: only the first so many images, before the split; None for all.

    Returns:
        One dict per image: ``image`` (path), ``patient``, and what `chestxray14_datalist` says of an image, empty here:
        ``group`` "", ``phase`` "", ``view`` "". There is no ``class_label``, as nothing is known of one.

    Raises:
        DataError: when there is no image, or an argument is wrong.

    Example:
        >>> from monai_mamba_gen.data import write_chestxray14_phantom
        >>> import tempfile
        >>> root = write_chestxray14_phantom(tempfile.mkdtemp(), num_patients=4, images_per_patient=1, size=16)
        >>> len(image_folder_datalist(root, "training", patient_pattern=r"(\d{8})_"))
        3
    """
    if not os.fspath(dataset_dir):
        raise DataError("dataset_dir is not given: name the folder of the images, --dataset_dir <folder>")
    check_split(split, val_fraction)
    check_num_images(num_images)
    expression = _compiled(patient_pattern)
    root = Path(dataset_dir)
    if not root.is_dir():
        raise DataError(f"dataset_dir {root}: no such folder")
    paths = [path for path in find_images(root) if fnmatch.fnmatch(path.name, pattern)]
    if not paths:
        asked = "" if pattern == "*" else f" with a name like {pattern!r}"
        raise DataError(f"dataset_dir {root}: no image{asked} in it, expected files {', '.join(IMAGE_SUFFIXES)}")
    root = Path(os.path.commonpath([path.parent for path in paths]))
    paths = paths[:num_images]
    patients = [_patient(path.relative_to(root), expression) for path in paths]
    folders = [root / patient for patient in sorted(set(patients))]
    chosen = {path.name for path in split_patients(folders, split, val_fraction, seed, "image_split")}
    blank = {"group": "", "phase": "", "view": ""}
    return [
        {"image": str(path), "patient": patient, **blank}
        for path, patient in zip(paths, patients, strict=True)
        if patient in chosen
    ]


def find_images(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[Path]:
    """Return the images below a folder, links to folders included, sorted by path; hidden ones are left out."""
    found, seen = [], set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        found += [Path(parent, name) for name in files if name.lower().endswith(suffixes) and name[0] != "."]
    return sorted(found)


def check_num_images(num_images: int | None) -> None:
    """Refuse a number of images that is none."""
    if num_images is not None and (isinstance(num_images, bool) or not isinstance(num_images, int) or num_images < 1):
        raise DataError(f"num_images must be a whole number above 0, or null for all, got {num_images!r}")


def _compiled(patient_pattern: str | None) -> re.Pattern[str] | None:
    if patient_pattern is None:
        return None
    try:
        expression = re.compile(patient_pattern)
    except re.error as error:
        raise DataError(f"patient_pattern {patient_pattern!r}: is no regular expression: {error}") from None
    if expression.groups < 1:
        raise DataError(f"patient_pattern {patient_pattern!r}: has no group (...) that is the patient")
    return expression


def _patient(path: Path, expression: re.Pattern[str] | None) -> str:
    """Return the patient of a path below the folder of all images."""
    found = expression.search(path.as_posix()) if expression else None
    if found and found.group(1):
        return found.group(1).replace("/", "_")
    return path.parts[0]
