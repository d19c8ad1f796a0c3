"""From the grid a model works on, a resampled crop, to the grid of the scan it came from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

__all__ = ["crop_box", "displacement_to_grid", "restore_cine", "warp_volume"]

_ROUNDING = 1e-4  # voxels; what float32 affines leave open


def _matrix(affine: np.ndarray | torch.Tensor, name: str) -> torch.Tensor:
    matrix = torch.as_tensor(affine).detach().as_subclass(torch.Tensor).cpu().double()
    if matrix.shape != (4, 4) or not torch.isfinite(matrix).all() or matrix.det().abs() < 1e-12:
        raise ValueError(f"{name} must be a (4, 4) matrix that can be inverted, got {matrix.tolist()}")
    return matrix


def _voxels(shape: Sequence[int], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    axes = [torch.arange(size, device=device, dtype=dtype) for size in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def _model_coordinates(to_model: torch.Tensor, shape: Sequence[int], device: torch.device) -> torch.Tensor:
    """Return where each voxel of the source lies on the model's grid: (3, X, Y, Z), in voxels."""
    to_model = to_model.to(device)
    turned = torch.einsum("ij,jxyz->ixyz", to_model[:3, :3], _voxels(shape, device, torch.float64))
    return turned + to_model[:3, 3].view(3, 1, 1, 1)


def _sample(values: torch.Tensor, coordinates: torch.Tensor, mode: str) -> torch.Tensor:
    """Read (C, h, w, d) at (3, X, Y, Z) voxel coordinates; beyond the border the value there goes on."""
    last = torch.tensor(values.shape[1:], device=values.device, dtype=coordinates.dtype).sub(1).clamp(min=1)
    place = (2 * coordinates.movedim(0, -1) / last - 1).flip(-1).to(values.dtype)
    return functional.grid_sample(values[None], place[None], mode, padding_mode="border", align_corners=True)[0]


def _crop_weight(coordinates: torch.Tensor, shape: Sequence[int], taper: float) -> torch.Tensor:
    """Return 1 within the crop, 0 outside, and a smooth step between where the source goes on beyond a face of it."""
    weight = torch.ones_like(coordinates[0])
    for axis, size in enumerate(shape):
        width = max(min(taper, size / 4), _ROUNDING)
        for distance in (coordinates[axis] + 0.5, size - 0.5 - coordinates[axis]):
            if distance.min() < -_ROUNDING:
                step = (distance / width).clamp(0, 1)
                weight = weight * step * step * (3 - 2 * step)
    return weight


def displacement_to_grid(
    displacement: torch.Tensor,
    affine_model: np.ndarray | torch.Tensor,
    affine_source: np.ndarray | torch.Tensor,
    shape_source: Sequence[int],
    taper: float = 2.0,
) -> torch.Tensor:
    """
    Take displacement fields from the grid of a model to the grid of the scan that its input was cropped from.

    The field is read (trilinear) where each voxel of the source lies on the model's grid, and its vectors are turned by
    the linear part of ``inverse(affine_source) @ affine_model``. Outside the crop it is 0. Where the source goes on
    beyond a face of the crop, the field fades out over the last ``taper`` voxels before that face, so that it has no
    jump; at faces where the source ends too it stays as it is.

    Args:
        displacement: (P, 3, h, w, d), voxels of the model's grid, pull convention: frame(x) = volume(x + u(x)).
        affine_model: (4, 4), voxel index of the model's grid to mm.
        affine_source: (4, 4), voxel index of the source to mm.
        shape_source: (X, Y, Z) of the source.
        taper: voxels of the model's grid, at most a quarter of its size.

    Returns:
        (P, 3, X, Y, Z) in voxels of the source, of the same type and on the same device.

    Raises:
        ValueError: when an argument has another shape, or an affine has no inverse.

    Example:
        >>> field = torch.ones(1, 3, 8, 8, 4)
        >>> moved = displacement_to_grid(field, torch.diag(torch.tensor([3.0, 3, 3, 1])), torch.eye(4), (22, 22, 10))
        >>> moved[0, :, 11, 11, 5]
        tensor([3., 3., 3.])
    """
    if displacement.ndim != 5 or displacement.shape[1] != 3 or len(shape_source) != 3:
        raise ValueError(
            "displacement must be (P, 3, h, w, d) and shape_source (X, Y, Z), got "
            f"{tuple(displacement.shape)} and {tuple(shape_source)}"
        )
    source, model = _matrix(affine_source, "affine_source"), _matrix(affine_model, "affine_model")
    coordinates = _model_coordinates(torch.linalg.solve(model, source), shape_source, displacement.device)
    weight = _crop_weight(coordinates, displacement.shape[2:], taper).to(displacement.dtype)
    turn = torch.linalg.solve(source, model)[:3, :3].to(displacement)
    fields = [torch.einsum("ij,jxyz->ixyz", turn, _sample(field, coordinates, "bilinear")) for field in displacement]
    return torch.stack(fields) * weight


def crop_box(
    affine_model: np.ndarray | torch.Tensor,
    shape_model: Sequence[int],
    affine_source: np.ndarray | torch.Tensor,
    shape_source: Sequence[int],
) -> tuple[slice, slice, slice]:
    """
    Return the smallest box of the source that holds all its voxels within the model's crop.

    Args:
        affine_model: (4, 4), voxel index of the model's grid to mm.
        shape_model: (h, w, d) of the model's grid.
        affine_source: (4, 4), voxel index of the source to mm.
        shape_source: (X, Y, Z) of the source.

    Raises:
        ValueError: when an affine has no inverse, or the two grids do not overlap.
    """
    to_model = torch.linalg.solve(_matrix(affine_model, "affine_model"), _matrix(affine_source, "affine_source"))
    coordinates = _model_coordinates(to_model, shape_source, torch.device("cpu"))
    size = torch.tensor(shape_model).view(3, 1, 1, 1)
    inside = ((coordinates >= -0.5 - _ROUNDING) & (coordinates <= size - 0.5 + _ROUNDING)).all(dim=0).nonzero()
    if len(inside) == 0:
        raise ValueError("the model's grid and the source do not overlap: their affines belong to different scans")
    low, high = inside.min(dim=0).values.tolist(), inside.max(dim=0).values.tolist()
    return tuple(slice(first, last + 1) for first, last in zip(low, high, strict=True))


def warp_volume(volume: torch.Tensor, displacement: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
    """
    Warp a volume: out(x) = volume(x + u(x)). Voxels that do not move keep their value bit for bit.

    Args:
        volume: (X, Y, Z).
        displacement: (3, X, Y, Z) in voxels.
        mode: "bilinear" (trilinear) for images, "nearest" for labels.

    Raises:
        ValueError: when the shapes do not fit each other.
    """
    if volume.ndim != 3 or displacement.shape != (3, *volume.shape):
        raise ValueError(
            f"volume must be (X, Y, Z) and displacement (3, X, Y, Z), got {tuple(volume.shape)} and "
            f"{tuple(displacement.shape)}"
        )
    place = _voxels(volume.shape, displacement.device, displacement.dtype) + displacement
    warped = _sample(volume[None].to(displacement), place, mode)[0].to(volume.dtype)
    return torch.where((displacement == 0).all(dim=0), volume, warped)


def restore_cine(
    volume: torch.Tensor,
    affine_source: np.ndarray | torch.Tensor,
    displacement: torch.Tensor,
    affine_model: np.ndarray | torch.Tensor,
    label: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """
    Warp the scan itself, in its own resolution and units, by the fields that a model made on its resampled crop.

    Args:
        volume: end diastole (X, Y, Z). Where the field is 0, such as everywhere in a frame at phase 0, its values stay
            as they are, bit for bit.
        affine_source: (4, 4), voxel index of the volume to mm.
        displacement: (T, 3, h, w, d), see `displacement_to_grid`.
        affine_model: (4, 4), voxel index of the model's grid to mm.
        label: (X, Y, Z), taken along with nearest neighbour.

    Returns:
        ``frames`` (T, X, Y, Z), ``displacement`` (T, 3, X, Y, Z) in voxels of the source and, with a label, ``labels``
        (T, X, Y, Z).
    """
    moved = displacement_to_grid(displacement.float(), affine_model, affine_source, volume.shape)
    cine = {"frames": torch.stack([warp_volume(volume, field) for field in moved]), "displacement": moved}
    if label is not None:
        cine["labels"] = torch.stack([warp_volume(label, field, "nearest") for field in moved])
    return cine
