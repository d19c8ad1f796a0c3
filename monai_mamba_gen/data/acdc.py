"""The list of volumes of a data set in ACDC's official layout."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from monai_mamba_gen.utils.errors import DataError

from .patient_split import check_split, split_patients

__all__ = ["acdc_datalist"]

_PHASES = ("ed_es", "all")
_SUFFIXES = (".nii.gz", ".nii")


def acdc_datalist(
    dataset_dir: str | os.PathLike[str],
    split: str = "training",
    phases: str = "ed_es",
    val_fraction: float = 0.1,
    seed: int = 0,
    section: str = "training",
) -> list[dict[str, Any]]:
    """
    List the volumes of an ACDC download, or of any folder of patients laid out like it.

    Reads ``<section>/<patient>/Info.cfg``, ``<patient>_frameFF.nii.gz`` with ``_gt`` labels and
    ``<patient>_4d.nii.gz`` (``.nii`` too). ``dataset_dir`` may also be the folder of the patients itself, and patients
    may have any names. A patient's place in the split follows from its name and ``seed`` alone, so new patients hardly
    move the others.

    Args:
        dataset_dir: the download's folder.
        split: "training", "validation" or "all"; the first two never share a patient.
        phases: "ed_es" for the end-diastolic and end-systolic frame of each patient, "all" for whole cine series.
        val_fraction: share of the patients in the validation split, above 0 and below 1; at least one patient, and at
            least one is left for training.
        seed: seed of the split.
        section: the download's sub-folder, "training" or "testing".

    Returns:
        One dict per volume: ``image`` (path), ``patient``, ``frame`` (1-based number of an ED or ES frame, None for a
        whole series), ``phase`` ("ED", "ES" or "4D"), ``group`` ("" where Info.cfg names none), ``series`` (whether
        the file is the 4D series, of which ``frame`` names one where it is not None), and ``label`` (path) where there
        is one.

    Raises:
        DataError: naming the file, folder or argument that is missing or wrong.

    Example:
        >>> from monai_mamba_gen.data import write_acdc_phantom
        >>> import tempfile
        >>> root = write_acdc_phantom(tempfile.mkdtemp(), num_patients=2, num_frames=2, shape=(32, 32, 2))
        >>> [item["phase"] for item in acdc_datalist(root, split="training")]
        ['ED', 'ES']
    """
    if not os.fspath(dataset_dir):
        raise DataError("dataset_dir is not given: name the folder of the data set, --dataset_dir <folder>")
    check_split(split, val_fraction)
    if phases not in _PHASES:
        raise DataError(f"phases must be one of {_PHASES}, got {phases!r}")
    folders = split_patients(_patient_folders(Path(dataset_dir), section), split, val_fraction, seed)
    items: list[dict[str, Any]] = []
    without_series = []
    for folder in folders:
        info = _read_info(folder)
        series = _volume_file(folder, "4d")
        if phases == "all" and series is not None:
            items.append(_item(folder, info, series, None, "4D", True))
            continue
        if phases == "all":
            without_series.append(folder.name)
        items.extend(_frame_items(folder, info, series))
    if without_series:
        warnings.warn(
            f"{len(without_series)} of {len(folders)} patients in {folders[0].parent} have no 4D series (first: "
            f"{without_series[0]}): their ED and ES frames are used instead",
            stacklevel=2,
        )
    return items


def _patient_folders(dataset_dir: Path, section: str) -> list[Path]:
    """Return the patients' folders under ``section``, or under ``dataset_dir`` itself, sorted by name."""
    if not dataset_dir.is_dir():
        raise DataError(f"dataset_dir {dataset_dir}: no such folder")
    within = dataset_dir / section
    if section and within.is_dir():
        parent, expected = within, "<patient>/Info.cfg"
    else:
        parent, expected = dataset_dir, f"{section}/<patient>/Info.cfg or <patient>/Info.cfg"
    folders = sorted((path for path in parent.iterdir() if _is_patient(path)), key=lambda path: path.name)
    if not folders:
        raise DataError(f"dataset_dir {parent}: no patient folders in it, expected {expected}")
    return folders


def _is_patient(path: Path) -> bool:
    if not path.is_dir() or path.name.startswith("."):
        return False
    named = path.name.startswith("patient")
    return named or (path / "Info.cfg").is_file() or any(file.name.endswith(_SUFFIXES) for file in path.iterdir())


def _read_info(folder: Path) -> dict[str, str]:
    """Read Info.cfg's ``key: value`` lines; ED and ES must be there as frame numbers."""
    path = folder / "Info.cfg"
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        raise DataError(f"patient folder {folder}: Info.cfg is missing") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    info = {key.strip(): value.strip() for key, found, value in (line.partition(":") for line in lines) if found}
    for key in ("ED", "ES"):
        if key not in info:
            raise DataError(f"{path}: has no line '{key}: <frame number>'")
        if not info[key].isdigit() or int(info[key]) < 1:
            raise DataError(f"{path}: {key} must be a frame number from 1 on, got {info[key]!r}")
    return info


def _volume_file(folder: Path, kind: str) -> Path | None:
    """Find ``<anything>_<kind>.nii.gz`` (or .nii) in a patient's folder, the patient's own name first."""
    for suffix in _SUFFIXES:
        exact = folder / f"{folder.name}_{kind}{suffix}"
        if exact.is_file():
            return exact
    found = sorted(path for suffix in _SUFFIXES for path in folder.glob(f"*_{kind}{suffix}") if path.is_file())
    return found[0] if found else None


def _frame_items(folder: Path, info: dict[str, str], series: Path | None) -> list[dict[str, Any]]:
    items = []
    for phase in ("ED", "ES"):
        frame = int(info[phase])
        path = _volume_file(folder, f"frame{frame:02d}")
        if path is None and series is None:
            missing = folder / f"{folder.name}_frame{frame:02d}.nii.gz"
            raise DataError(f"{missing}: is missing, although Info.cfg names frame {frame} as {phase}")
        item = _item(folder, info, path or series, frame, phase, path is None)
        label = _volume_file(folder, f"frame{frame:02d}_gt")
        if label is not None:
            item["label"] = str(label)
        items.append(item)
    return items


def _item(
    folder: Path, info: dict[str, str], image: Path | None, frame: int | None, phase: str, series: bool
) -> dict[str, Any]:
    return {
        "image": str(image),
        "patient": folder.name,
        "frame": frame,
        "phase": phase,
        "group": info.get("Group", ""),
        "series": series,
    }
