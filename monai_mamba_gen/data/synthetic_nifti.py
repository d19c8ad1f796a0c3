"""The bytes of a marked NIfTI file, and files written whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from ..utils.atomic_write import atomic_write

__all__ = ["NIFTI_COMMENT", "nifti_content", "provenance_json", "write_content"]

NIFTI_COMMENT = 6  # NIfTI extension code of plain text
_GRID_FIELDS = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)
_UNKNOWN_SECONDS = 1.0  # NIfTI wants a pixdim above 0


def provenance_json(provenance: Mapping[str, Any], indent: int | None = None) -> str:
    """Return provenance as JSON, with ``synthetic: true`` added."""
    return json.dumps({**provenance, "synthetic": True}, sort_keys=True, indent=indent)


def _description(provenance: Mapping[str, Any]) -> bytes:
    """Return the NIfTI header's description, which holds 79 bytes and an end."""
    weights = str(provenance.get("weights_sha256", ""))[:12]
    seed = provenance.get("seed")
    text = f"SYNTHETIC {provenance.get('model', '')} seed={'' if seed is None else seed} weights={weights}"
    return text.encode("ascii", "replace")[:79]


def nifti_content(
    path: str | os.PathLike[str],
    array: np.ndarray,
    affine: np.ndarray | torch.Tensor | None,
    provenance: Mapping[str, Any],
    dtype: str = "float32",
    cine: bool = False,
    seconds_per_frame: float | None = None,
    intent: str | None = None,
    header: nib.Nifti1Header | None = None,
) -> bytes:
    """
    Return the content of one NIfTI file with its marks; the same arguments give the same bytes.

    Args:
        path: the file's name, which tells whether it is compressed.
        array: (X, Y), (X, Y, Z), (X, Y, Z, T) or (X, Y, Z, T, components).
        affine: (4, 4), voxel index to mm; default the identity.
        provenance: what JSON can hold, and no date.
        dtype: stored type; nibabel finds slope and intercept where it is int16.
        cine: whether the fourth dimension is time.
        seconds_per_frame: distance of the frames of a cine; None writes 1 and leaves the unit of time unknown.
        intent: NIfTI intent, such as "displacement vector".
        header: that of a file on the same grid, whose two transforms (qform and sform) are taken over bit by bit with
            their codes; without effect where they do not agree with ``affine``.
    """
    matrix = np.eye(4) if affine is None else torch.as_tensor(affine).detach().cpu().double().numpy()
    nifti = nib.Nifti1Image(array if dtype == "uint8" else array.astype(np.float32), matrix)
    nifti.set_data_dtype(dtype)
    nifti.header.set_xyzt_units("mm", "sec" if cine and seconds_per_frame else None)
    if cine:
        zooms = list(nifti.header.get_zooms())
        zooms[3] = seconds_per_frame or _UNKNOWN_SECONDS
        nifti.header.set_zooms(zooms)
    if intent is not None:
        nifti.header.set_intent(intent)
    if header is not None and np.allclose(header.get_best_affine(), matrix, rtol=1e-5, atol=1e-4):
        _take_over_grid(nifti.header, header)
    nifti.header["descrip"] = _description(provenance)
    marks = provenance_json(provenance).encode()
    nifti.header.extensions.append(nib.nifti1.Nifti1Extension(NIFTI_COMMENT, marks))
    content = nifti.to_bytes()
    return gzip.compress(content, compresslevel=6, mtime=0) if str(path).lower().endswith(".gz") else content


def _take_over_grid(target: nib.Nifti1Header, source: nib.Nifti1Header) -> None:
    for key in _GRID_FIELDS:
        target[key] = source[key]
    target["pixdim"][:4] = source["pixdim"][:4]


def write_content(path: str | os.PathLike[str], content: bytes) -> str:
    """Write a file whole or not at all, making its folder where missing, and return its SHA-256."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    return hashlib.sha256(content).hexdigest()
