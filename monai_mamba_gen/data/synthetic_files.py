"""Files of synthetic images that say so themselves, with what made them, and hold nothing but that."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..utils import SYNTHETIC_MARKS, DataError
from .synthetic_nifti import NIFTI_COMMENT, nifti_content, provenance_json, write_content

__all__ = ["read_provenance", "synthetic_extension", "write_synthetic_image"]

_EXTENSIONS = (".nii", ".nii.gz", ".png")
_DTYPES = {".png": ("uint8", "uint16"), ".nii": ("float32", "int16"), ".nii.gz": ("float32", "int16")}


def synthetic_extension(path: str | os.PathLike[str]) -> str:
    """Return which of the extensions .nii, .nii.gz and .png a path has, or raise a ValueError."""
    for extension in (".nii.gz", ".nii", ".png"):
        if str(path).lower().endswith(extension):
            return extension
    raise ValueError(f"{path}: the extension must be one of {', '.join(_EXTENSIONS)}")


def _png_bytes(image: np.ndarray, marks: str, dtype: str, value_range: tuple[float, float], path: object) -> bytes:
    if image.ndim != 2:
        raise ValueError(f"{path}: a PNG holds an image (H, W), got {image.shape}; write .nii.gz")
    low, high = value_range
    levels = np.iinfo(dtype).max
    scaled = np.round(np.clip((image.astype(np.float64) - low) / (high - low), 0, 1) * levels).astype(dtype)
    text = PngInfo()
    for key, value in SYNTHETIC_MARKS.items():
        text.add_text(key, value)
    text.add_itxt("Provenance", marks)
    stream = io.BytesIO()
    Image.fromarray(scaled.T).save(stream, format="PNG", pnginfo=text)
    return stream.getvalue()


def write_synthetic_image(
    path: str | os.PathLike[str],
    image: np.ndarray | torch.Tensor,
    affine: np.ndarray | torch.Tensor | None,
    provenance: Mapping[str, Any],
    dtype: str | None = None,
    value_range: tuple[float, float] = (-1.0, 1.0),
) -> str:
    """
    Write one synthetic image, marked as such, and return the SHA-256 of the file.

    NIfTI: the header's ``descrip`` starts with ``SYNTHETIC``; the provenance is JSON in a comment extension. PNG: text
    chunks ``Synthetic: true``, ``DigitalSourceType: trainedAlgorithmicMedia`` and the JSON in ``Provenance``. The same
    arguments give the same bytes: no date is inside. The file appears whole or not at all.

    Args:
        path: ends with .nii, .nii.gz or .png.
        image: (H, W), for NIfTI also (H, W, D) or (H, W, D, T), finite. NIfTI keeps the values; a PNG's
            rows run along H, as with MONAI's writer, so that MONAI's reader gives the same array back.
        affine: (4, 4), pixel index to mm, for NIfTI; default the identity.
        provenance: what JSON can hold, such as model, weights_sha256, seed, sampler, steps; ``synthetic: true`` is
            added. It must hold no date, or the bytes differ between runs.
        dtype: stored type: float32 (default) or int16 (scaled to the image's own range, 16 bits) for NIfTI; uint8
            (default) or uint16 for PNG.
        value_range: for PNG, values stored as black and white; values outside are clipped.

    Raises:
        ValueError: when the image or an argument is none of these.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = write_synthetic_image(f"{folder}/seed_000000.nii.gz", torch.zeros(8, 8), None, {"seed": 0})
        ...     read_provenance(f"{folder}/seed_000000.nii.gz")
        {'seed': 0, 'synthetic': True}
    """
    path, extension = Path(path), synthetic_extension(path)
    dtype = dtype or _DTYPES[extension][0]
    if dtype not in _DTYPES[extension]:
        raise ValueError(f"dtype of {extension} must be one of {_DTYPES[extension]}, got {dtype!r}")
    if not value_range[0] < value_range[1]:
        raise ValueError(f"value_range must be (low, high) with low < high, got {value_range}")
    array = torch.as_tensor(image).detach().cpu().numpy()
    if array.ndim not in (2, 3, 4) or array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"{path}: image must be finite and have 2 to 4 dimensions, got shape {array.shape}")
    if extension == ".png":
        return write_content(path, _png_bytes(array, provenance_json(provenance), dtype, value_range, path))
    return write_content(path, nifti_content(path, array, affine, provenance, dtype))


def read_provenance(path: str | os.PathLike[str]) -> dict[str, Any]:
    """
    Return the provenance that `write_synthetic_image` and its like for cines and volumes put into a file.

    Args:
        path: a .nii, .nii.gz, .png or .gif file, or the .json beside a translated volume.

    Raises:
        DataError: when the file cannot be read or has no such marks.
    """
    try:
        if str(path).lower().endswith(".json"):
            return json.loads(Path(path).read_text(encoding="utf-8"))
        if str(path).lower().endswith(".gif"):
            with Image.open(path) as image:
                return json.loads(image.info["comment"])
        if synthetic_extension(path) == ".png":
            with Image.open(path) as image:
                return json.loads(image.text["Provenance"])
        for extension in nib.load(path).header.extensions:
            content = extension.get_content()
            if extension.get_code() == NIFTI_COMMENT:
                text = content if isinstance(content, str) else content.decode()
                return json.loads(text.rstrip("\x00"))
    except (OSError, KeyError, ValueError, EOFError, nib.filebasedimages.ImageFileError) as error:
        raise DataError(f"{path}: no marks of a synthetic image can be read ({error})") from error
    raise DataError(f"{path}: no marks of a synthetic image")
