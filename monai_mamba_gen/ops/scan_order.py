"""
Scan orders: in which order a sequence model visits the cells of a grid.

An order is an int64 index table: ``order[t]`` is the raster index of the cell visited at time t. Its inverse says when
a cell is visited, so that ``x[order][inverse_order(order)]`` is x.
"""

from __future__ import annotations

import functools

import torch

__all__ = ["cross_scan_orders", "inverse_order", "random_order", "regenerate_orders"]


def cross_scan_orders(height: int, width: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """
    Four orders of VMamba's cross-scan: by rows, by columns, and each backwards.

    Args:
        height: rows of the grid.
        width: columns of the grid.
        device: device of the table; tables are cached per size and device and must not be changed in place.

    Returns:
        (4, height * width) int64.

    Raises:
        ValueError: when height or width is below 1.

    Example:
        >>> cross_scan_orders(2, 2).tolist()
        [[0, 1, 2, 3], [0, 2, 1, 3], [3, 2, 1, 0], [3, 1, 2, 0]]
    """
    if height < 1 or width < 1:
        raise ValueError(f"height and width must be at least 1, got {height} and {width}")
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        return _cross_scan_orders(height, width, device)  # a table out of the cache would be a constant of the graph
    return _cached_cross_scan_orders(height, width, device)


def _cross_scan_orders(height: int, width: int, device: torch.device | str) -> torch.Tensor:
    raster = torch.arange(height * width)
    by_columns = raster.view(height, width).T.reshape(-1)
    return torch.stack([raster, by_columns, raster.flip(0), by_columns.flip(0)]).to(device)


_cached_cross_scan_orders = functools.lru_cache(maxsize=256)(_cross_scan_orders)


def inverse_order(order: torch.Tensor) -> torch.Tensor:
    """
    Invert orders: the time at which each cell is visited.

    Args:
        order: (..., L), each row a permutation of 0..L-1.

    Returns:
        (..., L) int64.

    Example:
        >>> inverse_order(torch.tensor([2, 0, 1])).tolist()
        [1, 2, 0]
    """
    times = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, times)


def random_order(length: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """
    Draw a random order of ``length`` cells, uniform over all permutations.

    Args:
        length: number of cells.
        generator: a CPU generator; default torch's global one.

    Returns:
        (length,) int64 on the CPU.
    """
    return torch.randperm(length, generator=generator)


def regenerate_orders(orders: torch.Tensor, shuffle: torch.Tensor) -> torch.Tensor:
    """
    Sequence Regeneration: let ``orders`` run over the grid whose cells have been shuffled.

    VM-DDPM (Ju & Zhou 2024), section III.D: the image is shuffled by patches, then cross-scanned. Shuffling and
    scanning are both index tables, so the two compose into one, and the inverse of the composed table undoes both.

    Args:
        orders: (K, L) orders of the unshuffled grid.
        shuffle: (L,) permutation; cell t of the shuffled image is cell ``shuffle[t]`` of the image.

    Returns:
        (K, L) int64.

    Raises:
        ValueError: when the lengths differ.
    """
    if shuffle.ndim != 1 or orders.shape[-1] != shuffle.shape[0]:
        raise ValueError(f"shuffle must be ({orders.shape[-1]},), got {tuple(shuffle.shape)}")
    return shuffle.to(orders.device)[orders]
