"""The list of cases of a data set in BraTS's official layouts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from monai_mamba_gen.utils.errors import DataError

from .patient_split import check_split, split_patients

__all__ = ["BRATS_MODALITIES", "brats_datalist"]

BRATS_MODALITIES = ("t1", "t1ce", "t2", "flair")
"""The four pictures of a case; t1ce is T1-weighted after contrast agent."""

_GROUPS = ("HGG", "LGG")
_SUFFIXES = (".nii.gz", ".nii")
_TOP_FOLDERS = 2  # folders such as MICCAI_BraTS_2018_Data_Training that may lie above the cases


def brats_datalist(
    dataset_dir: str | os.PathLike[str],
    split: str = "training",
    modality: str = "t1ce",
    val_fraction: float = 0.1,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """
    List the volumes of one modality of a BraTS download.

    Reads ``{HGG,LGG}/<case>/<case>_{t1,t1ce,t2,flair,seg}.nii.gz`` (BraTS 2018) and ``<case>/<case>_{...}.nii.gz``
    (2020, 2021, and the validation sets), ``.nii`` too. The cases may lie up to two folders deeper, as in
    ``MICCAI_BraTS_2018_Data_Training``. A case is a patient; its place in the split follows from its name and ``seed``
    alone, so new cases hardly move the others.

    Args:
        dataset_dir: the download's folder.
        split: "training", "validation" or "all"; the first two never share a patient.
        modality: one of `BRATS_MODALITIES`.
        val_fraction: share of the patients in the validation split, above 0 and below 1; at least one patient, and at
            least one is left for training.
        seed: seed of the split.

    Returns:
        One dict per case: ``image`` (path), ``patient`` (the case's name), ``group`` ("HGG", "LGG", or "" where the
        layout has no groups), ``phase`` (the modality), and ``label`` (path of the segmentation) where there is one.

    Raises:
        DataError: naming the file, folder or argument that is missing or wrong.

    Example:
        >>> from monai_mamba_gen.data import write_brats_phantom
        >>> import tempfile
        >>> root = write_brats_phantom(tempfile.mkdtemp(), num_patients=2, shape=(16, 16, 8))
        >>> [(item["group"], item["phase"]) for item in brats_datalist(root, split="all", modality="flair")]
        [('HGG', 'flair'), ('LGG', 'flair')]
    """
    if not os.fspath(dataset_dir):
        raise DataError("dataset_dir is not given: name the folder of the data set, --dataset_dir <folder>")
    check_split(split, val_fraction)
    if modality not in BRATS_MODALITIES:
        raise DataError(f"modality must be one of {BRATS_MODALITIES}, got {modality!r}")
    folders = _case_folders(Path(dataset_dir))
    return [_item(folder, modality) for folder in split_patients(folders, split, val_fraction, seed, "brats_split")]


def _case_folders(dataset_dir: Path) -> list[Path]:
    """Return the cases' folders, sorted by name, wherever they begin."""
    if not dataset_dir.is_dir():
        raise DataError(f"dataset_dir {dataset_dir}: no such folder")
    parents = [dataset_dir]
    for _ in range(_TOP_FOLDERS + 1):
        found = {parent: cases for parent in parents if (cases := _cases_in(parent))}
        if len(found) > 1:
            names = ", ".join(str(parent.relative_to(dataset_dir)) for parent in found)
            raise DataError(f"dataset_dir {dataset_dir}: cases in several folders of it ({names}), name one of them")
        for cases in found.values():
            return cases
        parents = [folder for parent in parents for folder in _folders(parent)]
    raise DataError(
        f"dataset_dir {dataset_dir}: no cases in it, expected HGG/<case>/<case>_t1ce.nii.gz or "
        "<case>/<case>_t1ce.nii.gz"
    )


def _cases_in(parent: Path) -> list[Path]:
    groups = [parent / group for group in _GROUPS if (parent / group).is_dir()]
    if groups:
        cases = [folder for group in groups for folder in _folders(group)]
    else:
        cases = [folder for folder in _folders(parent) if _is_case(folder)]
    return sorted(cases, key=lambda folder: folder.name)


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith((".", "__MACOSX")))


def _is_case(folder: Path) -> bool:
    return any(_file(folder, kind) is not None for kind in BRATS_MODALITIES)


def _file(folder: Path, kind: str) -> Path | None:
    """Find ``<case>_<kind>.nii.gz`` (or .nii) in a case's folder, or the one file of another name that ends so."""
    for suffix in _SUFFIXES:
        exact = folder / f"{folder.name}_{kind}{suffix}"
        if exact.is_file():
            return exact
    found = [path for suffix in _SUFFIXES for path in folder.glob(f"*_{kind}{suffix}") if path.is_file()]
    return found[0] if len(found) == 1 else None


def _item(folder: Path, modality: str) -> dict[str, Any]:
    image = _file(folder, modality)
    if image is None:
        raise DataError(f"{folder / folder.name}_{modality}.nii.gz (key 'image'): is missing")
    group = folder.parent.name if folder.parent.name in _GROUPS else ""
    item = {"image": str(image), "patient": folder.name, "group": group, "phase": modality}
    label = _file(folder, "seg")
    return item if label is None else item | {"label": str(label)}
