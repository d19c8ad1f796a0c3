"""Phantom heads and pelves on disk, in SynthRAD2023's own layout, so that one reader serves phantoms and patients."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from monai_mamba_gen.utils.seeding import derive_seed

from .ct_mr_phantom import PHANTOM_REGIONS, ct_mr_phantom, phantom_spacing
from .phantom_folder import write_phantom_folder

__all__ = ["synthrad_phantom_dir", "write_synthrad_phantom"]

_VERSION = 1


def write_synthrad_phantom(
    root: str | os.PathLike[str],
    num_patients: int = 12,
    regions: Sequence[str] = PHANTOM_REGIONS,
    shape: Sequence[int] = (64, 64, 24),
    spacing: Sequence[float] | None = None,
    seed: int = 0,
) -> Path:
    """
    Write phantom patients as ``Task1/<region>/<patient>/{ct,mr,mask}.nii.gz``.

    CT is int16 in HU, MR int16 in arbitrary units, mask uint8, see `ct_mr_phantom`; all on one grid whose axes run to
    the patient's left, back and head, as SynthRAD2023's do. Patients are 1BP001, 1BP002, ... (brain) and 1PP001, ...
    (pelvis). Files appear all at once; where the same phantom is there already, nothing is written.

    Args:
        root: folder to make; it may exist when it is empty or holds the same phantom.
        num_patients: patients of each region, at least 1; patient N is the same whatever the number.
        regions: some of "brain" and "pelvis", or the name of one.
        shape: (X, Y, Z) voxels, at least (16, 16, 1).
        spacing: mm per voxel; default: so that each region fills its volume.
        seed: the same arguments give the same files.

    Returns:
        ``root``, for `synthrad_datalist`.

    Raises:
        DataError: when ``root`` holds something else.
        ValueError: when an argument is outside what is allowed.

    Example:
        >>> import tempfile
        >>> root = write_synthrad_phantom(tempfile.mkdtemp(), num_patients=1, regions="brain", shape=(16, 16, 2))
        >>> sorted(path.name for path in (root / "Task1" / "brain" / "1BP001").iterdir())
        ['ct.nii.gz', 'mask.nii.gz', 'mr.nii.gz']
    """
    if isinstance(num_patients, bool) or not isinstance(num_patients, int) or num_patients < 1:
        raise ValueError(f"num_patients must be an integer above 0, got {num_patients!r}")
    regions = (regions,) if isinstance(regions, str) else tuple(regions)
    if not regions or any(region not in PHANTOM_REGIONS for region in regions):
        raise ValueError(f"regions must be some of {PHANTOM_REGIONS}, got {regions}")
    parameters = {
        "kind": "synthrad2023",
        "version": _VERSION,
        "num_patients": num_patients,
        "seed": int(seed),
        "regions": [region for region in PHANTOM_REGIONS if region in regions],
        "shape": [int(size) for size in shape],
        "spacing": None if spacing is None else [float(size) for size in spacing],
    }

    def write(folder: Path) -> None:
        for region in parameters["regions"]:
            for number in range(1, num_patients + 1):
                name = f"1{region[0].upper()}P{number:03d}"
                _write_patient(folder / "Task1" / region / name, region, number, parameters)

    return write_phantom_folder(root, parameters, write)


def synthrad_phantom_dir(dataset_dir: str | os.PathLike[str], **kwargs: Any) -> str:
    """
    Return ``dataset_dir`` after making sure that the phantom data set is in it; for bundle configs.

    Args:
        dataset_dir: folder of the phantom.
        kwargs: arguments of `write_synthrad_phantom`.

    Raises:
        DataError: when the folder holds something else.
    """
    return str(write_synthrad_phantom(dataset_dir, **kwargs))


def _write_patient(folder: Path, region: str, number: int, parameters: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    shape, spacing = parameters["shape"], parameters["spacing"] or phantom_spacing(region, parameters["shape"])
    pair = ct_mr_phantom(derive_seed(parameters["seed"], "synthrad_phantom", number), region, shape, spacing)
    # The axes run to left, back and head; NIfTI's world to right, front and head.
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    for name, array in pair.items():
        array = np.rint(array).clip(0, 32767).astype(np.int16) if name == "mr" else array
        image = nib.Nifti1Image(array, affine)
        image.header.set_xyzt_units("mm")
        image.header["descrip"] = b"synthetic phantom"
        nib.save(image, folder / f"{name}.nii.gz")
