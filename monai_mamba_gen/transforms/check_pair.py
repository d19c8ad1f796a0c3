"""Refuse pairs of pictures that do not lie over each other."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Transform

from monai_mamba_gen.utils.errors import DataError

from .data_source import source_name

__all__ = ["CheckPaird"]


class CheckPaird(Transform):
    """
    Check that image, target and mask are on one grid, hold finite values, and that the mask is one.

    Goes right after ``EnsureChannelFirstd``, before anything resamples. Grids agree when shapes are equal and no corner
    of the volume is more than a tenth of a voxel apart. A mask holds 0 and 1 only, and some 1.

    Args:
        image_key: key of the source.
        target_key: key of the true result.
        mask_key: key of the body mask.
        allow_missing_keys: whether target and mask may be missing, as in inference.

    Raises:
        DataError: at call, one line with file, key and reason.

    Example:
        >>> pair = {"image": torch.rand(1, 4, 4, 2), "target": torch.rand(1, 4, 4, 2), "mask": torch.ones(1, 4, 4, 2)}
        >>> sorted(CheckPaird()(pair))
        ['image', 'mask', 'target']
    """

    def __init__(
        self,
        image_key: str = "image",
        target_key: str = "target",
        mask_key: str = "mask",
        allow_missing_keys: bool = False,
    ) -> None:
        self.image_key = image_key
        self.target_key = target_key
        self.mask_key = mask_key
        self.allow_missing_keys = allow_missing_keys

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Check the keys of ``data`` and return it unchanged."""
        result = dict(data)
        if self.image_key not in result:
            raise DataError(f"a pair without its image: key {self.image_key!r} is missing")
        image_name = f"file {source_name(result[self.image_key])}"
        for key in (self.image_key, self.target_key, self.mask_key):
            if key not in result:
                if self.allow_missing_keys:
                    continue
                raise DataError(f"{image_name} (key {self.image_key!r}): has no {key!r} that belongs to it")
            problem = _grid_problem(result[self.image_key], result[key]) or _value_problem(result[key])
            if problem is None and key == self.mask_key:
                problem = _mask_problem(result[key])
            if problem:
                beside = "" if key == self.image_key else f", beside {image_name}"
                raise DataError(f"file {source_name(result[key])} (key {key!r}){beside}: {problem}")
        return result


def _grid_problem(image: Any, other: Any) -> str | None:
    shape, expected = tuple(other.shape), tuple(image.shape)
    if shape != expected:
        return f"shape {shape}, its image has {expected} (channels first); resample it onto the image"
    if not (isinstance(image, MetaTensor) and isinstance(other, MetaTensor)):
        return None
    rank = min(len(shape) - 1, 3)
    ends = torch.tensor([[0.0, size - 1.0] for size in shape[1 : rank + 1]], dtype=torch.float64)
    corners = torch.cartesian_prod(*ends) if rank > 1 else ends.reshape(-1, 1)
    here, there = (
        corners @ affine[:rank, :rank].T + affine[:rank, -1]
        for affine in (image.affine.double(), other.affine.double())
    )
    apart = torch.linalg.vector_norm(here - there, dim=1).max().item()
    voxel = torch.linalg.vector_norm(image.affine.double()[:rank, :rank], dim=0).min().item()
    if not apart <= 0.1 * voxel:
        return f"on another grid than its image, corners are up to {apart:.3g} mm apart; resample it onto the image"
    return None


def _value_problem(volume: Any) -> str | None:
    values = torch.as_tensor(volume)
    if not values.is_floating_point():
        return None
    bad = values.numel() - int(torch.isfinite(values).sum())
    return f"{bad} of {values.numel()} voxels are NaN or infinite" if bad else None


def _mask_problem(mask: Any) -> str | None:
    values = torch.as_tensor(mask).float()
    other = (values - values.round().clamp(0, 1)).abs() > 1e-3
    if other.any():
        return f"a mask holds 0 and 1, found {values[other][0].item():g}"
    if not (values > 0.5).any():
        return "empty mask, every voxel is 0"
    return None
