"""Scan orders of a grid with a time axis: frame by frame, or cell by cell through time."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch

__all__ = ["SPACE_TIME_PATHS", "space_time_orders"]

SPACE_TIME_PATHS = ("space", "space_transposed", "time")
"""Names of the paths through (T, D, H, W) that `space_time_orders` knows."""


def space_time_orders(
    sizes: Sequence[int],
    paths: Sequence[str] = ("space", "time"),
    bidirectional: bool = True,
    snake: bool = True,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """
    Orders in which a sequence model visits the cells of T frames.

    ``"space"``: frame after frame, each by rows, the last axis fastest. ``"space_transposed"``: frame after frame, the
    first spatial axis fastest. ``"time"``: cell after cell, each through all frames before the next. A snake turns
    round at the end of every line, plane and frame, so that two cells visited one after the other are always
    neighbours in space or in time; otherwise every line starts at the same side.

    Args:
        sizes: the grid, time first: (T, D, H, W), or (T, H, W) or (T, L).
        paths: names of paths, see above.
        bidirectional: whether each path is also taken backwards.
        snake: whether lines alternate their direction.
        device: device of the table; tables are cached and must not be changed in place.

    Returns:
        (K, L) int64 with L the number of cells and K = len(paths), or twice that: all paths forwards, then all
        backwards. ``order[t]`` is the raster index of the cell visited at time t; `inverse_order` gives the inverse.

    Raises:
        ValueError: naming a path or a size that is not allowed.

    Example:
        >>> space_time_orders((2, 1, 3), ("space", "time"), bidirectional=False).tolist()
        [[0, 1, 2, 5, 4, 3], [0, 3, 4, 1, 2, 5]]
    """
    in_a_graph = torch.jit.is_tracing() or torch.compiler.is_compiling()
    # a trace knows sizes as tensors, and takes others later where they stay that
    sizes, paths = tuple(size if in_a_graph else int(size) for size in sizes), tuple(paths)
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"sizes must be a number of frames and one or more spatial sizes, all above 0, got {sizes}")
    unknown = [path for path in paths if path not in SPACE_TIME_PATHS]
    if unknown or not paths:
        raise ValueError(f"paths must be one or more of {SPACE_TIME_PATHS}, got {paths}")
    if in_a_graph:
        return _orders(sizes, paths, bidirectional, snake, device)  # a cached table would be a constant of the graph
    return _cached_orders(sizes, paths, bidirectional, snake, device)


def _orders(
    sizes: tuple[int, ...], paths: tuple[str, ...], bidirectional: bool, snake: bool, device: torch.device | str
) -> torch.Tensor:
    spatial = list(range(1, len(sizes)))
    axes = {"space": [0, *spatial], "space_transposed": [0, *reversed(spatial)], "time": [*spatial, 0]}
    raster = torch.arange(math.prod(sizes)).view(sizes)
    forwards = torch.stack([_lay_out(raster.permute(axes[path]), snake) for path in paths])
    return (torch.cat([forwards, forwards.flip(1)]) if bidirectional else forwards).to(device)


_cached_orders = functools.lru_cache(maxsize=64)(_orders)


def _lay_out(cells: torch.Tensor, snake: bool) -> torch.Tensor:
    """Flatten a grid from the fastest axis up; a snake turns every other row of what is flat already."""
    flat = cells
    while flat.ndim > 1:
        if snake:
            odd = torch.arange(flat.shape[-2]) % 2 == 1  # rows to turn round
            flat = torch.where(odd[:, None], flat.flip(-1), flat)
        flat = flat.flatten(-2)
    return flat
