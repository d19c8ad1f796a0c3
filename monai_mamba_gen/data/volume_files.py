"""Files of a translated volume: the volume, its spread over samples, a picture and a sidecar, each marked synthetic."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from ..utils import SYNTHETIC_MARKS, DataError, file_sha256, save_png
from .cine_files import cine_name
from .manifest import finished_cines
from .synthetic_nifti import nifti_content, provenance_json, write_content

__all__ = ["unfinished_volumes", "volume_name", "write_synthetic_volume"]

_DTYPES = ("float32", "int16")
_MODALITY = {"ct2mr": "mr", "mr2ct": "ct"}


def volume_name(patient: str, direction: str = "ct2mr") -> str:
    """
    Return what the names of a translated volume's files begin with: the patient's name and the modality.

    Raises:
        DataError: when the patient's name cannot be part of a file name.
        ValueError: when the direction is none.

    Example:
        >>> volume_name("1BA001")
        '1BA001_mr'
    """
    if direction not in _MODALITY:
        raise ValueError(f"direction must be one of {tuple(_MODALITY)}, got {direction!r}")
    return f"{cine_name(patient)}_{_MODALITY[direction]}"


def unfinished_volumes(
    data: Iterable[Mapping[str, Any]], output_dir: str | os.PathLike[str], direction: str = "ct2mr"
) -> list[dict[str, Any]]:
    """
    Return the items of a data list whose translated volume is not yet in a folder, so that a killed run continues.

    Args:
        data: items with ``patient``.
        output_dir: folder that `SyntheticVolumeSaver` writes to; it need not exist.
        direction: "ct2mr" or "mr2ct".

    Raises:
        DataError: when two items have the same patient's name, so that one would overwrite the other.

    Example:
        >>> unfinished_volumes([{"patient": "1BA001"}], "nowhere")
        [{'patient': '1BA001'}]
    """
    items = [dict(item) for item in data]
    names = [volume_name(item["patient"], direction) for item in items]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise DataError(f"two items would both be written as {twice[0]}: patients' names must differ")
    finished = finished_cines(output_dir)
    return [item for item, name in zip(items, names, strict=True) if name not in finished]


def write_synthetic_volume(
    output_dir: str | os.PathLike[str],
    name: str,
    volume: np.ndarray | torch.Tensor,
    affine: np.ndarray | torch.Tensor,
    provenance: Mapping[str, Any],
    std: np.ndarray | torch.Tensor | None = None,
    picture: np.ndarray | None = None,
    dtype: str = "float32",
    header: nib.Nifti1Header | None = None,
) -> dict[str, str]:
    """
    Write a translated volume and return its files with their SHA-256, the volume first.

    ``<name>.nii.gz``, ``<name>_std.nii.gz``, ``<name>.png`` and the sidecar ``<name>.json`` with the provenance as
    text. NIfTI files and the picture hold it, too; `read_provenance` reads it. The same arguments give the same bytes:
    no date is inside.

    Args:
        output_dir: folder of the files; made where missing.
        name: what their names begin with, see `volume_name`.
        volume: (X, Y, Z) or (X, Y), finite.
        affine: (4, 4), voxel index to mm.
        provenance: what JSON can hold, and no date; ``content`` is added to it.
        std: standard deviation, of the volume's shape.
        picture: uint8 (rows, columns), see `translation_picture`.
        dtype: stored type: "float32", or "int16" (scaled to the volume's own range).
        header: header of a NIfTI file on the same grid, whose transforms are taken over bit by bit.

    Raises:
        ValueError: when an argument is none of these.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     list(write_synthetic_volume(folder, "p1_mr", torch.rand(8, 8, 4), torch.eye(4), {}))
        ['p1_mr.nii.gz', 'p1_mr.json']
    """
    if dtype not in _DTYPES:
        raise ValueError(f"dtype must be one of {_DTYPES}, got {dtype!r}")
    folder = Path(output_dir)
    matrix = torch.as_tensor(affine).detach().as_subclass(torch.Tensor).cpu().double().numpy()
    parts = [(f"{name}.nii.gz", _array(volume, "volume"), "volume")]
    if std is not None:
        parts.append((f"{name}_std.nii.gz", _array(std, "std"), "standard deviation"))
        if parts[0][1].shape != parts[1][1].shape:
            raise ValueError(f"std must have the volume's shape {parts[0][1].shape}, got {parts[1][1].shape}")
    files = {}
    for file, array, content in parts:
        marked = nifti_content(file, array, matrix, {**provenance, "content": content}, dtype, header=header)
        files[file] = write_content(folder / file, marked)
    if picture is not None:
        path = folder / f"{name}.png"
        save_png(
            path, picture, {**SYNTHETIC_MARKS, "Provenance": provenance_json({**provenance, "content": "picture"})}
        )
        files[path.name] = file_sha256(path)
    sidecar = provenance_json({**provenance, "content": "sidecar"}, indent=2) + "\n"
    files[f"{name}.json"] = write_content(folder / f"{name}.json", sidecar.encode())
    return files


def _array(values: np.ndarray | torch.Tensor, name: str) -> np.ndarray:
    array = torch.as_tensor(values).detach().as_subclass(torch.Tensor).cpu().numpy()
    if array.ndim not in (2, 3) or array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"{name} must be (X, Y, Z) or (X, Y), finite and not empty, got shape {array.shape}")
    return array
