"""Orders through space and time: permutations with exact inverses, neighbours, names, and the values of small grids."""

from __future__ import annotations

import itertools

import pytest
import torch

from monai_mamba_gen.ops import (
    SPACE_TIME_PATHS,
    inverse_order,
    ordered_scan,
    selective_scan_ref,
    space_time_orders,
)

GRIDS = [(1, 1, 1, 1), (3, 4, 5, 2), (1, 3, 3, 3), (5, 1, 1, 1), (2, 7, 1, 3), (4, 6), (3, 5, 2), (10, 2, 3, 5)]


def coordinates(order: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor:
    return torch.stack(torch.unravel_index(order, sizes), dim=-1)


@pytest.mark.parametrize("sizes", GRIDS, ids=str)
@pytest.mark.parametrize("snake", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_every_order_is_a_permutation_and_its_inverse_is_exact(sizes, snake, bidirectional):
    orders = space_time_orders(sizes, SPACE_TIME_PATHS, bidirectional, snake)
    length = torch.Size(sizes).numel()
    assert orders.shape == (len(SPACE_TIME_PATHS) * (2 if bidirectional else 1), length)
    assert orders.dtype == torch.int64
    cells = torch.randn(length)
    for order in orders:
        assert torch.equal(order.sort().values, torch.arange(length))
        assert torch.equal(cells[order][inverse_order(order)], cells)
        assert torch.equal(order[inverse_order(order)], torch.arange(length))


@pytest.mark.parametrize("sizes", GRIDS, ids=str)
def test_a_snake_only_ever_steps_to_a_neighbour(sizes):
    for order in space_time_orders(sizes, SPACE_TIME_PATHS, snake=True):
        steps = coordinates(order, sizes).diff(dim=0).abs().sum(dim=-1)
        assert bool((steps == 1).all())


@pytest.mark.parametrize("snake", [True, False])
def test_backwards_is_forwards_reversed(snake):
    orders = space_time_orders((2, 3, 4, 2), SPACE_TIME_PATHS, snake=snake)
    forwards = space_time_orders((2, 3, 4, 2), SPACE_TIME_PATHS, bidirectional=False, snake=snake)
    assert torch.equal(orders[:3], forwards)
    assert torch.equal(orders[3:], forwards.flip(1))


def test_paths_are_what_their_names_say():
    sizes = (3, 2, 4, 5)
    space, transposed, time = space_time_orders(sizes, SPACE_TIME_PATHS, bidirectional=False, snake=False)
    loops = [range(size) for size in sizes]
    assert torch.equal(space, torch.arange(space.numel()))
    expected = [(t, d, h, w) for t, w, h, d in itertools.product(loops[0], loops[3], loops[2], loops[1])]
    assert coordinates(transposed, sizes).tolist() == [list(cell) for cell in expected]
    expected = [(t, d, h, w) for d, h, w, t in itertools.product(loops[1], loops[2], loops[3], loops[0])]
    assert coordinates(time, sizes).tolist() == [list(cell) for cell in expected]


def test_time_visits_all_frames_of_a_cell_in_a_row():
    for snake in (True, False):
        cells = coordinates(space_time_orders((5, 2, 3), ["time"], False, snake)[0], (5, 2, 3))
        assert bool((cells[:, 1:].view(6, 5, 2) == cells[::5, None, 1:]).all())


def test_small_snake_by_hand():
    expected = [[0, 1, 3, 2, 6, 7, 5, 4]]
    assert space_time_orders((2, 2, 2), ["space"], bidirectional=False).tolist() == expected


def test_a_scan_along_a_path_is_the_scan_of_the_reordered_sequence():
    sizes, (k, e, s) = (3, 2, 3, 2), (4, 5, 3)
    orders = space_time_orders(sizes)
    length = orders.shape[1]
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1, length, e, generator=draw, dtype=torch.float64)
    delta = torch.rand(1, length, k, e, generator=draw, dtype=torch.float64)
    A = -torch.rand(k, e, s, generator=draw, dtype=torch.float64)
    B, C = torch.randn(2, 1, length, k, s, generator=draw, dtype=torch.float64)
    y = ordered_scan(x, delta, A, B, C, orders=orders)
    expected = torch.zeros_like(y)
    for i, order in enumerate(orders):
        sequence = (m[:, order].transpose(1, 2) for m in (x, delta[:, :, i]))
        scanned = selective_scan_ref(*sequence, A[i], *(m[:, order, i].transpose(1, 2) for m in (B, C)))
        expected += scanned.transpose(1, 2)[:, inverse_order(order)]
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((2, 3), ("diagonal",)), r"paths must be one or more of .*diagonal"),
        (((2, 3), ()), "paths must be one or more"),
        (((2, 0, 3),), r"sizes .* above 0, got \(2, 0, 3\)"),
        (((3,),), r"got \(3,\)"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        space_time_orders(*arguments)
