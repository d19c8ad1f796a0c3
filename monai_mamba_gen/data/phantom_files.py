"""Phantom hearts on disk, in ACDC's own layout, so that one reader serves phantoms and patients."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from monai_mamba_gen.utils.seeding import derive_seed

from .phantom import PHANTOM_GROUPS, cardiac_phantom
from .phantom_folder import write_phantom_folder

__all__ = ["phantom_dataset_dir", "write_acdc_phantom"]

_VERSION = 1
_FULL_SCALE = 400.0


def write_acdc_phantom(
    root: str | os.PathLike[str],
    num_patients: int = 20,
    seed: int = 0,
    num_frames: int = 8,
    shape: Sequence[int] = (96, 96, 8),
    spacing: Sequence[float] = (1.5, 1.5, 10.0),
) -> Path:
    """
    Write phantom patients as ``training/patientNNN/`` with the files that ACDC has.

    Each patient folder holds ``Info.cfg``, ``patientNNN_4d.nii.gz`` and, for end diastole and end systole,
    ``patientNNN_frameFF.nii.gz`` and ``patientNNN_frameFF_gt.nii.gz``. Images are int16; spacing in mm and seconds per
    frame are in the headers. The five groups of ACDC take turns. Files are built in a temporary folder beside ``root``
    and appear all at once; where the same phantom is there already, nothing is written.

    Args:
        root: folder to make; it may exist when it is empty or holds the same phantom.
        num_patients: at least 1; patient N is the same whatever the number.
        seed: the same arguments give the same files.
        num_frames: frames in a cycle, at least 2.
        shape: (X, Y, Z) voxels.
        spacing: mm per voxel along (X, Y, Z).

    Returns:
        ``root`` as a path.

    Raises:
        DataError: when ``root`` holds anything else.
        ValueError: when an argument is outside what is allowed.

    Example:
        >>> import tempfile
        >>> root = write_acdc_phantom(tempfile.mkdtemp(), num_patients=1, num_frames=2, shape=(32, 32, 2))
        >>> sorted(path.name for path in root.iterdir())
        ['phantom.json', 'training']
    """
    if num_patients < 1:
        raise ValueError(f"num_patients must be at least 1, got {num_patients}")
    parameters = {
        "version": _VERSION,
        "num_patients": int(num_patients),
        "seed": int(seed),
        "num_frames": int(num_frames),
        "shape": [int(size) for size in shape],
        "spacing": [float(size) for size in spacing],
    }

    def write(folder: Path) -> None:
        for number in range(1, num_patients + 1):
            _write_patient(folder / "training" / f"patient{number:03d}", number, parameters)

    return write_phantom_folder(root, parameters, write)


def phantom_dataset_dir(dataset_dir: str | os.PathLike[str], **kwargs: Any) -> str:
    """
    Return ``dataset_dir`` after making sure that the phantom data set is in it; for bundle configs.

    Args:
        dataset_dir: folder of the phantom.
        kwargs: arguments of `write_acdc_phantom`.

    Raises:
        DataError: when the folder holds something else.
    """
    return str(write_acdc_phantom(dataset_dir, **kwargs))


def _write_patient(folder: Path, number: int, parameters: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    images, labels, info = cardiac_phantom(
        seed=derive_seed(parameters["seed"], "acdc_phantom", number),
        num_frames=parameters["num_frames"],
        shape=parameters["shape"],
        spacing=parameters["spacing"],
        group=PHANTOM_GROUPS[(number - 1) % len(PHANTOM_GROUPS)],
    )
    series = np.moveaxis(np.rint(images * _FULL_SCALE).clip(0, 32767).astype(np.int16), 0, -1)
    spacing, seconds = parameters["spacing"], info["seconds_per_frame"]
    _save(folder / f"{folder.name}_4d.nii.gz", series, (*spacing, seconds))
    for frame in dict.fromkeys((info["ED"], info["ES"])):
        stem = f"{folder.name}_frame{frame:02d}"
        _save(folder / f"{stem}.nii.gz", series[..., frame - 1], spacing)
        _save(folder / f"{stem}_gt.nii.gz", labels[frame - 1], spacing)
    keys = ("ED", "ES", "Group", "Height", "NbFrame", "Weight")
    (folder / "Info.cfg").write_text("".join(f"{key}: {info[key]}\n" for key in keys))


def _save(path: Path, array: np.ndarray, zooms: Sequence[float]) -> None:
    """Save with the origin at the middle of the volume; time, if any, in seconds."""
    affine = np.diag([*zooms[:3], 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(array.shape[:3]) - 1) / 2)
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm", "sec" if array.ndim == 4 else "unknown")
    image.header.set_zooms(tuple(zooms))
    image.header["descrip"] = b"synthetic phantom"
    nib.save(image, path)
