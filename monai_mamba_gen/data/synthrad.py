"""The list of patients of a data set in SynthRAD2023's official layout, and of a single CT."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from monai_mamba_gen.utils.errors import DataError

from .patient_split import check_split, split_patients

__all__ = ["ct_inputs", "synthrad_datalist"]

_REGIONS = ("brain", "pelvis")
_DIRECTIONS = ("ct2mr", "mr2ct")
_SUFFIXES = (".nii.gz", ".nii")
_NO_PATIENT = ("overview",)  # folder of pictures and tables beside the patients


def synthrad_datalist(
    dataset_dir: str | os.PathLike[str],
    split: str = "training",
    region: str = "brain",
    val_fraction: float = 0.1,
    seed: int = 0,
    task: str = "Task1",
    require_target: bool = True,
) -> list[dict[str, Any]]:
    """
    List the patients of a SynthRAD2023 download (Thummerer et al., Medical Physics 2023), one dict each.

    Reads ``Task1/<region>/<patient>/{ct,mr,mask}.nii.gz`` (``.nii`` too). ``dataset_dir`` holds ``Task1``, or is
    ``Task1`` itself. Patients are split within each region, so a patient is in the same split whether one region or
    all are read; its place follows from its name and ``seed`` alone.

    Args:
        dataset_dir: the download's folder.
        split: "training", "validation" or "all"; the first two never share a patient.
        region: "brain", "pelvis", or "all" for those that are there.
        val_fraction: share of a region's patients in the validation split, above 0 and below 1.
        seed: seed of the split.
        task: name of the task's folder.
        require_target: whether MR and mask must be there; else they are listed where they are.

    Returns:
        Per patient: ``image`` (path of the CT), ``target`` (of the MR), ``mask`` (of the body mask), ``patient`` and
        ``region``.

    Raises:
        DataError: naming the file, folder or argument that is missing or wrong.

    Example:
        >>> from monai_mamba_gen.data import write_synthrad_phantom
        >>> import tempfile
        >>> root = write_synthrad_phantom(tempfile.mkdtemp(), num_patients=2, shape=(16, 16, 2))
        >>> [(item["patient"], item["region"]) for item in synthrad_datalist(root, split="all", region="all")]
        [('1BP001', 'brain'), ('1BP002', 'brain'), ('1PP001', 'pelvis'), ('1PP002', 'pelvis')]
    """
    if not os.fspath(dataset_dir):
        raise DataError("dataset_dir is not given: name the folder of the data set, --dataset_dir <folder>")
    check_split(split, val_fraction)
    if region not in (*_REGIONS, "all"):
        raise DataError(f"region must be one of {(*_REGIONS, 'all')}, got {region!r}")
    parent = _task_folder(Path(dataset_dir), task)
    items = []
    for name in _REGIONS if region == "all" else (region,):
        if region == "all" and not (parent / name).is_dir():
            continue
        folders = split_patients(_patient_folders(parent / name), split, val_fraction, seed, "synthrad_split")
        items += [_item(folder, name, require_target) for folder in folders]
    return items


def ct_inputs(
    dataset_dir: str | os.PathLike[str] = "",
    split: str = "all",
    image: str | os.PathLike[str] = "",
    mask: str | os.PathLike[str] = "",
    val_fraction: float = 0.1,
    seed: int = 0,
    region: str = "all",
    direction: str = "ct2mr",
) -> list[dict[str, Any]]:
    """
    List the CTs to convert, or the MRs with ``direction="mr2ct"``: those of a data set, or a single one.

    Args:
        dataset_dir: folder in SynthRAD2023's layout, see `synthrad_datalist`; MR and mask may be missing.
        split: "training", "validation" or "all" of it.
        image: file of one CT, or folder with one DICOM series of it, instead of a data set.
        mask: file of the body mask that belongs to ``image``, on the same grid.
        val_fraction: see `synthrad_datalist`.
        seed: likewise.
        region: likewise.
        direction: "ct2mr", or "mr2ct": ``image`` is an MR, of a data set too.

    Raises:
        DataError: when neither or both of dataset_dir and image are given, a file is missing, or the data set is not
            readable.
        ValueError: when the direction is none.

    Example:
        >>> import tempfile
        >>> ct_inputs(image=tempfile.mkdtemp(suffix="_series"))[0]["patient"].endswith("_series")
        True
    """
    if direction not in _DIRECTIONS:
        raise ValueError(f"direction must be one of {_DIRECTIONS}, got {direction!r}")
    if not os.fspath(image):
        if os.fspath(mask):
            raise DataError(f"mask {mask} is given without image: name the CT, --image <file or DICOM folder>")
        if not os.fspath(dataset_dir):
            raise DataError(
                "neither dataset_dir nor image is given: --dataset_dir <folder> or --image <file or DICOM folder>"
            )
        items = synthrad_datalist(dataset_dir, split, region, val_fraction, seed, require_target=False)
        return items if direction == "ct2mr" else [_reversed(item) for item in items]
    if os.fspath(dataset_dir):
        raise DataError(f"both dataset_dir {dataset_dir} and image {image} are given: name one of them")
    if not Path(image).exists():
        raise DataError(f"file {image} (key 'image'): no such file or folder")
    if os.fspath(mask) and not Path(mask).exists():
        raise DataError(f"file {mask} (key 'mask'): no such file")
    item = {"image": os.fspath(image)}
    if os.fspath(mask):
        item["mask"] = os.fspath(mask)
    return [item | {"patient": _name(Path(image)), "region": ""}]


def _reversed(item: dict[str, Any]) -> dict[str, Any]:
    """Return a patient whose image is the MR."""
    if "target" not in item:
        raise DataError(f"{Path(item['image']).with_name('mr.nii.gz')} (key 'image'): is missing")
    return {key: item["target" if key == "image" else key] for key in item if key != "target"}


def _name(path: Path) -> str:
    """Return a file's name without its ending, or a folder's name."""
    path = path.resolve()
    if path.is_dir():
        return path.name
    suffix = next((each for each in _SUFFIXES if path.name.endswith(each)), path.suffix)
    return path.name.removesuffix(suffix)


def _task_folder(dataset_dir: Path, task: str) -> Path:
    """Return ``dataset_dir/task``, or ``dataset_dir`` where it is the task's folder itself."""
    if not dataset_dir.is_dir():
        raise DataError(f"dataset_dir {dataset_dir}: no such folder")
    for parent in (dataset_dir / task, dataset_dir):
        if any((parent / region).is_dir() for region in _REGIONS):
            return parent
    expected = " or ".join(f"{task}/{region}" for region in _REGIONS)
    raise DataError(f"dataset_dir {dataset_dir}: no region in it, expected the folder {expected}")


def _patient_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"dataset_dir {folder.parent}: has no region {folder.name!r}")
    folders = [
        path
        for path in folder.iterdir()
        if path.is_dir() and not path.name.startswith(".") and path.name not in _NO_PATIENT
    ]
    if not folders:
        raise DataError(f"dataset_dir {folder}: no patient folders in it, expected <patient>/ct.nii.gz")
    return sorted(folders, key=lambda path: path.name)


def _item(folder: Path, region: str, require_target: bool) -> dict[str, Any]:
    item = {}
    for key, stem in (("image", "ct"), ("target", "mr"), ("mask", "mask")):
        found = next((folder / f"{stem}{end}" for end in _SUFFIXES if (folder / f"{stem}{end}").is_file()), None)
        if found is not None:
            item[key] = str(found)
        elif require_target or key == "image":
            raise DataError(f"{folder / stem}.nii.gz (key {key!r}): is missing")
    return item | {"patient": folder.name, "region": region}
