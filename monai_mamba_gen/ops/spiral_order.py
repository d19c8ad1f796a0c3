"""Spiral orders of a grid: inward from each corner, and the tables that the published code of DiffMa applies."""

from __future__ import annotations

import functools

import torch

from .scan_order import inverse_order

__all__ = ["released_spiral_orders", "spiral_orders"]

_RIGHT, _DOWN, _LEFT, _UP = (0, 1), (1, 0), (0, -1), (-1, 0)  # steps in (row, column)
_HEADINGS = (
    (_RIGHT, _DOWN, _LEFT, _UP),
    (_DOWN, _LEFT, _UP, _RIGHT),
    (_LEFT, _UP, _RIGHT, _DOWN),
    (_UP, _RIGHT, _DOWN, _LEFT),
    (_RIGHT, _UP, _LEFT, _DOWN),
    (_LEFT, _DOWN, _RIGHT, _UP),
    (_DOWN, _RIGHT, _UP, _LEFT),
    (_UP, _LEFT, _DOWN, _RIGHT),
)  # of the published code's eight spirals, in its order


def _in_a_graph() -> bool:
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


def spiral_orders(height: int, width: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """
    Eight orders that wind inward from the corners of a grid of any size.

    Spiral-Scan of DiffMa (Wang et al. 2024) keeps cells neighbours in the sequence that are neighbours in the grid. A
    spiral that starts at the centre cell leaves most grids on one side before it has covered the other; one that starts
    at a corner covers every grid, and two cells visited one after the other always share an edge. The reverse of each
    order, ``orders.flip(-1)``, runs outward from the middle.

    Args:
        height: rows of the grid.
        width: columns of the grid.
        device: device of the table; tables are cached per size and device and must not be changed in place.

    Returns:
        (8, height * width) int64: clockwise from the top left, top right, bottom right and bottom left corner, then
        counter-clockwise from the same corners. ``order[t]`` is the raster index of the cell visited at time t;
        `inverse_order` gives the inverse.

    Raises:
        ValueError: when height or width is below 1.

    Example:
        >>> orders = spiral_orders(2, 3)
        >>> orders[0].tolist(), orders[4].tolist()
        ([0, 1, 2, 5, 4, 3], [0, 3, 4, 5, 2, 1])
    """
    if height < 1 or width < 1:
        raise ValueError(f"height and width must be at least 1, got {height} and {width}")
    height, width = int(height), int(width)  # numbers in a trace too
    build = _spirals if _in_a_graph() else _cached_spirals  # a cached table would be a constant of the graph
    return build(height, width, device)


def _spirals(height: int, width: int, device: torch.device | str) -> torch.Tensor:
    cells = [list(range(row * width, (row + 1) * width)) for row in range(height)]
    views = [cells, _turned(cells), _turned(_turned(cells)), _turned(_turned(_turned(cells)))]
    mirrored = [[list(column) for column in zip(*view, strict=True)] for view in views]
    return torch.tensor([_inward(view) for view in views + mirrored]).to(device)


_cached_spirals = functools.lru_cache(maxsize=64)(_spirals)


def _turned(cells: list[list[int]]) -> list[list[int]]:
    """Turn a grid by a quarter so that its right side comes on top."""
    return [list(column) for column in zip(*cells, strict=True)][::-1]


def _inward(cells: list[list[int]]) -> list[int]:
    """Clockwise from the top left corner: the first row, then what is left, turned so that its right side is on top."""
    order: list[int] = []
    while cells:
        order += cells[0]
        cells = _turned(cells[1:])
    return order


def released_spiral_orders(size: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """
    Eight pairs of orders of a square grid, as the published code of DiffMa applies them.

    The code walks eight spirals outward from cell ``(size // 2, size // 2)`` over whatever lies outside the grid, and
    notes for each cell how many were visited before it. It then gathers with these ranks, that is to say it scans in
    the inverse of the spiral; its second table holds the ranks of the way back. What comes out is a permutation that is
    undone rightly, but no spiral: two cells visited one after the other are some four cells apart. Networks trained by
    that code need these tables.

    Args:
        size: rows and columns of the grid.
        device: device of the table; tables are cached per size and device and must not be changed in place.

    Returns:
        (8, 2, size * size) int64. ``[i, 0]`` is the order that block i, i + 8, ... of the network applies, ``[i, 1]``
        its partner ``size * size - 1 - [i, 0]``; both are used as ``cells[order]``.

    Raises:
        ValueError: when size is below 1.

    Example:
        >>> released_spiral_orders(2)[0].tolist()
        [[2, 3, 1, 0], [1, 0, 2, 3]]
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    size = int(size)
    build = _released if _in_a_graph() else _cached_released
    return build(size, device)


def _released(size: int, device: torch.device | str) -> torch.Tensor:
    ranks = inverse_order(torch.tensor([_outward(size, headings) for headings in _HEADINGS]))  # (8, L)
    return torch.stack([ranks, size * size - 1 - ranks], dim=1).to(device)


_cached_released = functools.lru_cache(maxsize=64)(_released)


def _outward(size: int, headings: tuple[tuple[int, int], ...]) -> list[int]:
    """Cells of a square in the order of a walk from its centre with runs of 1, 1, 2, 2, 3, 3, ... steps."""
    row = column = size // 2
    visited, run = [], 0
    while len(visited) < size * size:
        down, right = headings[run % 4]
        for _ in range(run // 2 + 1):
            if 0 <= row < size and 0 <= column < size:
                visited.append(row * size + column)
            row, column = row + down, column + right
        run += 1
    return visited
