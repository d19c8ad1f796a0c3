"""Files of a synthetic cine: the series, its labels, its motion and pictures, each marked as synthetic."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..utils import SYNTHETIC_MARKS, DataError, cine_pictures, file_sha256, film_strip, save_gif, save_png
from .manifest import finished_cines
from .synthetic_nifti import nifti_content, provenance_json, write_content

__all__ = ["cine_name", "unfinished_cines", "write_synthetic_cine"]

_DTYPES = ("float32", "int16")
_UNKNOWN_SECONDS = 0.1  # pace of a GIF where the cine's is unknown


def cine_name(patient: str, seed: int | None = None) -> str:
    """
    Return what the names of a cine's files begin with: the patient's name, and the seed of a generated beat.

    Raises:
        DataError: when the patient's name cannot be part of a file name.

    Example:
        >>> cine_name("patient001", 12)
        'patient001_seed_000012'
    """
    if not re.fullmatch(r"\w[\w.\-]*", str(patient), re.ASCII):
        raise DataError(f"patient must consist of letters, digits, '_', '-' and '.', got {patient!r}")
    return str(patient) if seed is None else f"{patient}_seed_{int(seed):06d}"


def unfinished_cines(
    data: Iterable[Mapping[str, Any]], output_dir: str | os.PathLike[str], seeds: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """
    Return the items of a data list whose cine is not yet in a folder, so that a killed run continues.

    Args:
        data: items with ``patient`` and, for generation, ``seed``.
        output_dir: folder that `SyntheticCineSaver` writes to; it need not exist.
        seeds: for generation: each item is taken once with each of these as its ``seed``.

    Example:
        >>> [item["seed"] for item in unfinished_cines([{"patient": "a"}], "nowhere", seeds=[0, 1])]
        [0, 1]
    """
    if seeds is not None:
        data = [{**item, "seed": int(seed)} for item in data for seed in seeds]
    finished = finished_cines(output_dir)
    return [dict(item) for item in data if cine_name(item["patient"], item.get("seed")) not in finished]


def _array(values: Any, name: str, channels: int) -> np.ndarray:
    """Return (T, ...) as an array with T, and then the components, last."""
    array = torch.as_tensor(values).detach().as_subclass(torch.Tensor).cpu().numpy()
    if array.ndim != 4 + channels or array.size == 0 or not np.isfinite(array).all():
        expected = "(T, 3, X, Y, Z)" if channels else "(T, X, Y, Z)"
        raise ValueError(f"{name} must be {expected}, finite and not empty, got shape {array.shape}")
    return np.moveaxis(array, [0, 1], [3, 4]) if channels else np.moveaxis(array, 0, 3)


def _in_mm(displacement: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Turn vectors (X, Y, Z, T, 3) in voxels into mm of the NIfTI world."""
    return displacement.astype(np.float64) @ affine[:3, :3].T


def write_synthetic_cine(
    output_dir: str | os.PathLike[str],
    name: str,
    frames: np.ndarray | torch.Tensor,
    affine: np.ndarray | torch.Tensor,
    provenance: Mapping[str, Any],
    seconds_per_frame: float | None = None,
    labels: np.ndarray | torch.Tensor | None = None,
    displacement: np.ndarray | torch.Tensor | None = None,
    save_frames: bool = False,
    gif: bool = False,
    strip: bool = False,
    box: Sequence[slice] | None = None,
    dtype: str = "float32",
) -> dict[str, str]:
    """
    Write a synthetic cine and return its files with their SHA-256, the series first.

    ``<name>_4d.nii.gz``: (X, Y, Z, T). ``<name>_4d_gt.nii.gz``: labels of each frame, uint8. ``<name>_frame01.nii.gz``
    and so on: single frames. ``<name>_displacement.nii.gz``: (X, Y, Z, T, 3) float32 with NIfTI's intent "displacement
    vector" (1006): where frame T shows at a voxel what end diastole shows at the voxel's place plus this vector, in mm
    along the axes of NIfTI's world (right, anterior, superior); ITK turns it to its own axes on reading.
    ``<name>.gif`` and ``<name>_strip.png``: pictures of the middle slice, see `save_gif` and `film_strip`. The same
    arguments give the same bytes: no date is inside. `read_provenance` reads the marks of any of them.

    Args:
        output_dir: folder of the files; made where missing.
        name: what their names begin with, see `cine_name`.
        frames: (T, X, Y, Z), finite; the first is end diastole.
        affine: (4, 4), voxel index to mm.
        provenance: what JSON can hold, and no date; ``content`` is added to it, and to single frames their
            ``frame_number``, from 1.
        seconds_per_frame: fourth pixdim, unit s. None: unknown, written as 1 with an unknown unit, as NIfTI wants a
            number above 0 there.
        labels: (T, X, Y, Z), whole numbers from 0 to 255.
        displacement: (T, 3, X, Y, Z), voxels, pull convention.
        save_frames: whether to write single frames too.
        gif: whether to draw the GIF.
        strip: whether to draw the film strip.
        box: part of the volume that pictures show; default all of it.
        dtype: stored type of the frames: "float32", or "int16" (scaled to the series' own range).

    Raises:
        ValueError: when an argument is none of these.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = write_synthetic_cine(folder, "p1", torch.rand(2, 8, 8, 4), torch.eye(4), {})
        >>> list(files)
        ['p1_4d.nii.gz']
    """
    if dtype not in _DTYPES:
        raise ValueError(f"dtype must be one of {_DTYPES}, got {dtype!r}")
    if seconds_per_frame is not None and not 0 < seconds_per_frame < float("inf"):
        raise ValueError(f"seconds_per_frame must be above 0 or None, got {seconds_per_frame!r}")
    folder, series = Path(output_dir), _array(frames, "frames", 0)
    matrix = torch.as_tensor(affine).detach().as_subclass(torch.Tensor).cpu().double().numpy()
    parts = [(f"{name}_4d.nii.gz", series, {"content": "cine"}, {"dtype": dtype, "cine": True})]
    if labels is not None:
        marks = _label_array(labels, series.shape)
        parts.append((f"{name}_4d_gt.nii.gz", marks, {"content": "labels"}, {"dtype": "uint8", "cine": True}))
    if displacement is not None:
        vectors = _in_mm(_array(displacement, "displacement", 1), matrix)
        if vectors.shape != (*series.shape, 3):
            raise ValueError(f"displacement must fit frames {series.shape}, got {vectors.shape}")
        options = {"cine": True, "intent": "displacement vector"}
        parts.append((f"{name}_displacement.nii.gz", vectors, {"content": "displacement"}, options))
    for index in range(series.shape[3] if save_frames else 0):
        content = {"content": "frame", "frame_number": index + 1}
        parts.append((f"{name}_frame{index + 1:02d}.nii.gz", series[..., index], content, {"dtype": dtype}))
    files = {}
    for file, array, content, options in parts:
        seconds = {"seconds_per_frame": seconds_per_frame} if options.get("cine") else {}
        marked = nifti_content(file, array, matrix, {**provenance, **content}, **options, **seconds)
        files[file] = write_content(folder / file, marked)
    shown = np.moveaxis(series[tuple(box)] if box is not None else series, 3, 0)
    if gif:
        files |= _save_gif(folder / f"{name}.gif", shown, provenance, seconds_per_frame)
    if strip:
        path = folder / f"{name}_strip.png"
        marks = {**SYNTHETIC_MARKS, "Provenance": provenance_json({**provenance, "content": "film strip"})}
        save_png(path, film_strip(shown), marks)
        files[path.name] = file_sha256(path)
    return files


def _label_array(labels: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = _array(labels, "labels", 0)
    stored = np.round(array).clip(0, 255).astype(np.uint8)
    if array.shape != shape or not np.array_equal(stored, array):
        raise ValueError(f"labels must be whole numbers from 0 to 255 of shape (X, Y, Z, T) {shape}, got {array.shape}")
    return stored


def _save_gif(
    path: Path, frames: np.ndarray, provenance: Mapping[str, Any], seconds_per_frame: float | None
) -> dict[str, str]:
    comment = provenance_json({**provenance, "content": "animation"})
    save_gif(path, cine_pictures(frames), seconds_per_frame or _UNKNOWN_SECONDS, comment)
    return {path.name: file_sha256(path)}
