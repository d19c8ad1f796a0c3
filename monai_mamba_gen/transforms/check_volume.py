"""Refuse volumes that would spoil training, before it starts."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ensure_tuple, ensure_tuple_rep

from monai_mamba_gen.utils.errors import DataError

__all__ = ["CheckVolumed"]

# NIfTI intents of a trailing axis that is not time: vector, RGB vector, RGBA vector.
_VECTOR_INTENTS = (1007, 2003, 2004)


class CheckVolumed(MapTransform):
    """
    Check freshly loaded volumes and name file and key of the first that cannot be used.

    Goes right after ``EnsureChannelFirstd``, where time of a 4D series is the channel axis. Refused are: NaN or
    infinite voxels; a constant volume; the wrong number of spatial dimensions; zero, negative or non-finite spacing;
    more than one channel in an item that says it is no series (``"series": False``, see `acdc_datalist`); and colour.

    Colour is told by a 2D picture with several channels (PNG), by a NIfTI vector axis (the fifth) or vector intent.
    NIfTI's RGB data types do not get past ``LoadImaged``; `load_volume` names those. A volume of three slices
    (X, Y, 3) stays legal, as nothing in a file tells it from colour, and so does a series of three frames (X, Y, Z, 3),
    as NIfTI's fourth axis is time.

    Args:
        keys: keys to check.
        allowed_ndim: allowed numbers of spatial dimensions, channel excluded.
        allow_constant: whether a constant volume passes, one value or one per key; True for labels.
        allow_missing_keys: whether missing keys are skipped.

    Raises:
        DataError: at call, one line with file, key and reason.

    Example:
        >>> volume = MetaTensor(torch.rand(1, 4, 4, 2), meta={"filename_or_obj": "a.nii.gz"})
        >>> CheckVolumed("image")({"image": volume})["image"].shape
        torch.Size([1, 4, 4, 2])
    """

    def __init__(
        self,
        keys: KeysCollection,
        allowed_ndim: Sequence[int] | int = (2, 3),
        allow_constant: Sequence[bool] | bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.allowed_ndim = tuple(ensure_tuple(allowed_ndim))
        self.allow_constant = ensure_tuple_rep(allow_constant, len(self.keys))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Check each key of ``data`` and return it unchanged."""
        result = dict(data)
        for key, allow_constant in self.key_iterator(result, self.allow_constant):
            volume = torch.as_tensor(result[key])
            meta = result[key].meta if isinstance(result[key], MetaTensor) else {}
            problem = (
                self._shape_problem(volume, meta, result.get("series"))
                or _value_problem(volume, allow_constant)
                or _spacing_problem(result[key], meta)
            )
            if problem:
                raise DataError(f"file {meta.get('filename_or_obj', 'in memory')} (key {key!r}): {problem}")
        return result

    def _shape_problem(self, volume: torch.Tensor, meta: Mapping, series: bool | None) -> str | None:
        channels, ndim = volume.shape[0], volume.ndim - 1
        dim = np.asarray(meta.get("dim", [])).ravel()
        vector = int(meta.get("intent_code", 0)) in _VECTOR_INTENTS or (dim.size > 5 and dim[0] >= 5 and dim[5] > 1)
        picture = dim.size == 0 and ndim == 2
        if channels > 1 and (vector or picture):
            return f"{channels} channels (a colour or vector image), one greyscale channel expected"
        if ndim not in self.allowed_ndim:
            return f"{ndim} spatial dimensions {tuple(volume.shape[1:])}, allowed are {self.allowed_ndim}"
        if volume.numel() == 0:
            return f"no voxels, shape {tuple(volume.shape)}"
        if series is False and channels > 1:
            return f"{channels} channels in a file of one frame, one greyscale channel expected"
        return None


def _value_problem(volume: torch.Tensor, allow_constant: bool) -> str | None:
    if volume.is_floating_point():
        bad = volume.numel() - int(torch.isfinite(volume).sum())
        if bad:
            return f"{bad} of {volume.numel()} voxels are NaN or infinite"
    low, high = volume.min().item(), volume.max().item()
    if low == high and not allow_constant:
        return f"constant volume, every voxel is {low:g}"
    return None


def _spacing_problem(volume: Any, meta: Mapping) -> str | None:
    """Look at the header as it is on disk: nibabel repairs zero and negative spacing in silence."""
    path = str(meta.get("filename_or_obj", ""))
    spacing = _raw_spacing(path) if path.endswith((".nii", ".nii.gz")) and os.path.isfile(path) else None
    if spacing is None and isinstance(volume, MetaTensor):
        # Not `MetaTensor.pixdim`, which shows 1 where the affine says 0.
        rank = min(volume.ndim - 1, 3)
        spacing = torch.linalg.vector_norm(volume.affine[:rank, :rank], dim=0).tolist()
    if spacing and not all(np.isfinite(size) and size > 0 for size in spacing):
        return f"spacing must be above 0 mm, the header says {tuple(round(size, 6) for size in spacing)}"
    return None


def _raw_spacing(path: str) -> list[float]:
    header_class = type(nib.load(path).header)
    with nib.openers.ImageOpener(path) as stream:
        header = header_class.from_fileobj(stream, check=False)
    rank = min(int(header["dim"][0]), 3)
    return [float(header["pixdim"][axis]) for axis in range(1, rank + 1) if header["dim"][axis] > 1]
