"""Connected regions of masks, in numpy alone: MONAI's need scikit-image or scipy, which this package does not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["fill_holes", "largest_component"]


def largest_component(mask: np.ndarray) -> np.ndarray:
    """
    Keep the largest region of a mask; voxels that share a face belong together.

    Args:
        mask: any number of dimensions, True within.

    Returns:
        Boolean array of the same shape; empty where ``mask`` is.

    Example:
        >>> largest_component(np.array([True, False, True, True])).tolist()
        [False, False, True, True]
    """
    mask = np.asarray(mask, dtype=bool)
    if not mask.any():
        return mask.copy()
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    labels = _spread(labels, mask, range(mask.ndim), np.minimum)
    counts = np.bincount(labels[mask])
    return labels == counts.argmax()


def fill_holes(mask: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """
    Add to a mask what it encloses.

    Args:
        mask: True within.
        axes: axes along which background is connected; ``(0, 1)`` of a volume fills each slice along the last axis by
            itself. A hole is what no such way leads out of.

    Example:
        >>> ring = np.ones((3, 3), dtype=bool)
        >>> ring[1, 1] = False
        >>> bool(fill_holes(ring, (0, 1)).all())
        True
    """
    background = ~np.asarray(mask, dtype=bool)
    outside = np.zeros_like(background)
    for axis in axes:
        ends = [slice(None)] * mask.ndim
        for end in (0, -1):
            ends[axis] = end
            outside[tuple(ends)] = background[tuple(ends)]
    return ~_spread(outside, background, axes, np.logical_or)


def _spread(values: np.ndarray, mask: np.ndarray, axes: Sequence[int], combine: np.ufunc) -> np.ndarray:
    """Give every connected region of ``mask`` one value, combined from all its voxels' values."""
    changed = True
    while changed:
        changed = False
        for axis in axes:
            spread = _along_runs(values, mask, axis, combine)
            changed = changed or not np.array_equal(spread, values)
            values = spread
    return values


def _along_runs(values: np.ndarray, mask: np.ndarray, axis: int, combine: np.ufunc) -> np.ndarray:
    """Give every run of neighbouring voxels of ``mask`` along one axis its combined value."""
    inside = np.moveaxis(mask, axis, -1)
    first = inside.copy()
    first[..., 1:] &= ~inside[..., :-1]
    moved = np.moveaxis(values, axis, -1)
    result = np.zeros_like(moved)
    if not inside.any():
        return np.moveaxis(result, -1, axis)
    starts = first[inside]
    combined = combine.reduceat(moved[inside], np.flatnonzero(starts))
    result[inside] = combined[np.cumsum(starts) - 1]
    return np.moveaxis(result, -1, axis)
