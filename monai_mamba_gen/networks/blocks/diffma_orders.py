"""The orders in which the blocks of DiffMa read the tokens."""

from __future__ import annotations

import functools

import torch

from ...ops import released_spiral_orders, spiral_orders

__all__ = ["SCAN_ORDERS", "diffma_orders"]

SCAN_ORDERS = ("spiral", "released", "raster")
"""Names of the orders that `diffma_orders` knows."""


def diffma_orders(scan_order: str, height: int, width: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """
    Orders of a grid for each of the eight kinds of blocks; block i takes row ``i % 8``.

    ``"spiral"``: by rows, one of the eight spirals inward, and the same outward. ``"released"``: by rows, and the two
    tables of the published code, see `released_spiral_orders`. ``"raster"``: by rows and backwards.

    Args:
        scan_order: one of `SCAN_ORDERS`.
        height: rows of the grid.
        width: columns of the grid.
        device: device of the table; tables are cached and must not be changed in place.

    Returns:
        (8, K, height * width) int64, K = 3, or 2 for ``"raster"``.

    Raises:
        ValueError: when the name is unknown, or ``"released"`` is asked for a grid that is not square.

    Example:
        >>> diffma_orders("raster", 1, 3)[0].tolist()
        [[0, 1, 2], [2, 1, 0]]
    """
    if scan_order not in SCAN_ORDERS:
        raise ValueError(f"scan_order must be one of {SCAN_ORDERS}, got {scan_order!r}")
    if scan_order == "released" and height != width:
        raise ValueError(f"scan_order='released' knows square grids only, got {height} x {width} tokens")
    in_a_graph = torch.jit.is_tracing() or torch.compiler.is_compiling()
    return (_orders if in_a_graph else _cached_orders)(scan_order, height, width, device)


def _orders(scan_order: str, height: int, width: int, device: torch.device | str) -> torch.Tensor:
    raster = torch.arange(height * width, device=device)
    if scan_order == "raster":
        return torch.stack([raster, raster.flip(0)]).expand(8, -1, -1)
    if scan_order == "released":
        pairs = released_spiral_orders(height, device)  # (8, 2, L)
    else:
        inward = spiral_orders(height, width, device)
        pairs = torch.stack([inward, inward.flip(1)], dim=1)
    return torch.cat([raster.expand(8, 1, -1), pairs], dim=1)


_cached_orders = functools.lru_cache(maxsize=64)(_orders)
