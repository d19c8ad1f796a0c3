"""Back from the crop that a network sees to the grid of the scan."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, SpatialResample
from torch.nn import functional

__all__ = ["RestoreGridd", "restore_volume"]

_ROUNDING = 1e-4  # voxels; what float32 affines leave open
_LEAST_WEIGHT = 1e-3  # share of voxels inside the mask that a value can be told from
_VOXELS_AT_ONCE = 1 << 22


def restore_volume(
    volume: torch.Tensor,
    affine_model: np.ndarray | torch.Tensor,
    affine_source: np.ndarray | torch.Tensor,
    shape_source: Sequence[int],
    mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Resample what a model made on its own grid to the grid of the file that its input came from, trilinearly.

    Only voxels inside the mask are mixed, so that nothing of the background leaks into the rim of the body, nor into
    the first and last slices of a scan. Flips, swapped axes, padding and crops alone give back the values bit for bit.
    Positions within half a voxel beyond the model's grid count as covered.

    Args:
        volume: (C, h, w, d) on the model's grid.
        affine_model: (4, 4), voxel index of the model's grid to mm.
        affine_source: (4, 4), voxel index of the file to mm.
        shape_source: (X, Y, Z) of the file.
        mask: (h, w, d), above 0 where ``volume`` has values; default everywhere.

    Returns:
        The values (C, X, Y, Z), float32, 0 where there are none, and bool (X, Y, Z), where there are some; on the CPU.

    Raises:
        ValueError: when an argument has another shape, or an affine has no inverse.

    Example:
        >>> moved, known = restore_volume(torch.ones(1, 4, 4, 4), torch.diag(torch.tensor([2.0, 2, 2, 1])),
        ...     torch.eye(4), (10, 8, 8))
        >>> moved[0, :, 0, 0]
        tensor([1., 1., 1., 1., 1., 1., 1., 1., 0., 0.])
    """
    if volume.ndim != 4 or len(shape_source) != 3 or (mask is not None and mask.shape != volume.shape[1:]):
        shapes = f"{tuple(volume.shape)}, {tuple(shape_source)} and {None if mask is None else tuple(mask.shape)}"
        raise ValueError(f"volume must be (C, h, w, d), shape_source (X, Y, Z) and mask (h, w, d), got {shapes}")
    to_model = torch.linalg.solve(_matrix(affine_model, "affine_model"), _matrix(affine_source, "affine_source"))
    values = volume.detach().as_subclass(torch.Tensor).cpu().double()
    weight = torch.ones_like(values[:1]) if mask is None else _plain_mask(mask)
    packed = torch.cat([torch.where(weight > 0, values, 0.0), weight])
    sizes = torch.tensor(volume.shape[1:], dtype=torch.float64)
    restored = torch.zeros(len(volume), *shape_source)
    known = torch.zeros(tuple(shape_source), dtype=torch.bool)
    planes = max(1, _VOXELS_AT_ONCE // (shape_source[0] * shape_source[1]))
    for first in range(0, shape_source[2], planes):
        last = min(first + planes, shape_source[2])
        place = _places(to_model, (*shape_source[:2], last - first), first)
        grid = ((2 * place + 1) / sizes - 1).flip(-1)
        sampled = functional.grid_sample(packed[None], grid[None], "bilinear", "zeros", align_corners=False)[0]
        within = ((place >= -0.5 - _ROUNDING) & (place <= sizes - 0.5 + _ROUNDING)).all(-1)
        found = within & (sampled[-1] > _LEAST_WEIGHT)
        known[..., first:last] = found
        restored[..., first:last] = torch.where(found, sampled[:-1] / sampled[-1].clamp(min=_LEAST_WEIGHT), 0.0)
    return restored, known


def _places(to_model: torch.Tensor, shape: Sequence[int], first_plane: int) -> torch.Tensor:
    """Return where voxels of the file lie on the model's grid, (X, Y, Z, 3), whole numbers without rounding errors."""
    axes = [torch.arange(size, dtype=torch.float64) for size in shape]
    axes[2] = axes[2] + first_plane
    place = sum(
        axis.reshape([-1 if dimension == number else 1 for dimension in range(3)] + [1]) * to_model[:3, number]
        for number, axis in enumerate(axes)
    )
    place = place + to_model[:3, 3]
    whole = place.round()
    return torch.where((place - whole).abs() < _ROUNDING, whole, place)


def _matrix(affine: np.ndarray | torch.Tensor, name: str) -> torch.Tensor:
    matrix = torch.as_tensor(affine).detach().as_subclass(torch.Tensor).cpu().double()
    if matrix.shape != (4, 4) or not torch.isfinite(matrix).all() or matrix.det().abs() < 1e-12:
        raise ValueError(f"{name} must be a (4, 4) matrix that can be inverted, got {matrix.tolist()}")
    return matrix


def _plain_mask(mask: torch.Tensor) -> torch.Tensor:
    return (mask.detach().as_subclass(torch.Tensor).cpu() > 0).double()[None]


class RestoreGridd(MapTransform):
    """
    Resample (C, H, W, D) to the grid of the file that an image was loaded from, trilinearly.

    `HeartCropd` and ``Spacingd`` are undone in one step by way of the affines, for viewers that lay a result over the
    scan. What lies outside the crop gets ``background``.

    Args:
        keys: keys to resample, MetaTensors.
        image_key: the preprocessed image, a MetaTensor whose meta data still know ``original_affine`` and
            ``spatial_shape`` of the file.
        background: value outside the crop.
        allow_missing_keys: whether missing keys are skipped.
        mask_key: mask on the grid of the image; where there is one, `restore_volume` is used, which mixes only voxels
            inside it, and what is outside the restored mask gets ``background``, too.

    Example:
        >>> meta = {"original_affine": torch.eye(4), "spatial_shape": (8, 8, 4)}
        >>> crop = MetaTensor(torch.ones(1, 4, 4, 4), affine=torch.eye(4), meta=meta)
        >>> RestoreGridd("pred")({"image": crop, "pred": crop.clone()})["pred"].shape
        torch.Size([1, 8, 8, 4])
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str = "image",
        background: float = -1.0,
        allow_missing_keys: bool = False,
        mask_key: str | None = None,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.background = background
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with each key on the file's grid."""
        result = dict(data)
        meta = result[self.image_key].meta
        affine = torch.as_tensor(meta["original_affine"])
        size = [int(side) for side in meta["spatial_shape"]][:3]
        resample = SpatialResample(mode="bilinear", padding_mode="zeros", align_corners=True)
        for key in self.key_iterator(result):
            if self.mask_key is not None:
                result[key] = self._inside_mask(result[key], result[self.mask_key], affine[:4, :4].double(), size)
                continue
            moved = resample(result[key] - self.background, dst_affine=affine[:4, :4], spatial_size=size)
            result[key] = moved + self.background
            if isinstance(result[key], MetaTensor):
                result[key].affine = affine[:4, :4].to(torch.float64)
        return result

    def _inside_mask(
        self, volume: torch.Tensor, mask: torch.Tensor, affine: torch.Tensor, size: Sequence[int]
    ) -> MetaTensor:
        grid = volume if isinstance(volume, MetaTensor) else mask
        values, known = restore_volume(volume, grid.affine, affine, size, mask[0])
        inside = restore_volume((mask > 0).float(), grid.affine, affine, size)[0][0] >= 0.5
        values = torch.where(known & inside, values, self.background)
        result = MetaTensor(values, meta=dict(volume.meta) if isinstance(volume, MetaTensor) else None)
        result.affine = affine
        return result
