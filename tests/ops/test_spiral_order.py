"""Spirals: every cell once, every step to a neighbour; the published tables against a walk on paper."""

from __future__ import annotations

import pytest
import torch

from monai_mamba_gen.ops import inverse_order, released_spiral_orders, spiral_orders

SIZES = [(1, 1), (1, 7), (7, 1), (2, 2), (2, 9), (3, 5), (5, 3), (4, 6), (9, 9), (14, 14), (40, 56)]


def steps(order: torch.Tensor, width: int) -> torch.Tensor:
    """Manhattan distance between cells visited one after the other."""
    rows, columns = order // width, order % width
    return rows.diff().abs() + columns.diff().abs()


def test_a_spiral_on_paper():
    """3 x 4: 0 1 2 3 / 4 5 6 7 / 8 9 10 11."""
    assert spiral_orders(3, 4).tolist() == [
        [0, 1, 2, 3, 7, 11, 10, 9, 8, 4, 5, 6],
        [3, 7, 11, 10, 9, 8, 4, 0, 1, 2, 6, 5],
        [11, 10, 9, 8, 4, 0, 1, 2, 3, 7, 6, 5],
        [8, 4, 0, 1, 2, 3, 7, 11, 10, 9, 5, 6],
        [0, 4, 8, 9, 10, 11, 7, 3, 2, 1, 5, 6],
        [3, 2, 1, 0, 4, 8, 9, 10, 11, 7, 6, 5],
        [11, 7, 3, 2, 1, 0, 4, 8, 9, 10, 6, 5],
        [8, 9, 10, 11, 7, 3, 2, 1, 0, 4, 5, 6],
    ]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_every_cell_once_and_every_step_to_a_neighbour(height, width):
    orders = spiral_orders(height, width)
    assert orders.shape == (8, height * width) and orders.dtype == torch.int64
    assert torch.equal(orders.sort(dim=1).values, torch.arange(height * width).expand(8, -1))
    for order in orders:
        assert (steps(order, width) == 1).all()
        assert (steps(order.flip(0), width) == 1).all()


def test_no_jump_at_any_size():
    """All sizes from 1 x 1 to 40 x 56."""
    for height in range(1, 41):
        for width in range(1, 57):
            orders = spiral_orders(height, width)
            assert (orders.sort(dim=1).values == torch.arange(height * width)).all()
            assert (steps(orders, width) == 1).all(), (height, width)


@pytest.mark.parametrize(("height", "width"), [(3, 5), (6, 4), (7, 7)])
def test_corners_and_handedness(height, width):
    orders, last = spiral_orders(height, width), height * width - 1
    corners = [0, width - 1, last, last - width + 1]
    assert orders[:, 0].tolist() == corners * 2
    down, right = width, 1
    assert (orders[:, 1] - orders[:, 0]).tolist() == [right, down, -right, -down, down, -right, -down, right]
    assert len({tuple(order.tolist()) for order in orders}) == 8


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_inverse_is_exact(height, width):
    x = torch.randn(height * width)
    for order in spiral_orders(height, width):
        assert torch.equal(x[order][inverse_order(order)], x)


def test_tables_are_cached_per_size():
    assert spiral_orders(3, 5) is spiral_orders(3, 5)
    assert spiral_orders(3, 5) is not spiral_orders(5, 3)
    assert spiral_orders(3, 5, "meta").device.type == "meta"
    assert released_spiral_orders(5) is released_spiral_orders(5)
    assert released_spiral_orders(5, "meta").device.type == "meta"


def test_no_cells_are_refused():
    with pytest.raises(ValueError, match="height and width must be at least 1, got 0 and 3"):
        spiral_orders(0, 3)
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        released_spiral_orders(0)


def test_the_published_walk_on_paper():
    """
    3 x 3 from the middle, first heading right, then down, left, up; clockwise. Cells in the order of the walk:
    4 5 8 7 6 3 0 1 2, so that the ranks of cells 0..8 are 6 7 8 5 0 1 4 3 2; these are what the code gathers with.
    """
    assert released_spiral_orders(3)[0].tolist() == [[6, 7, 8, 5, 0, 1, 4, 3, 2], [2, 1, 0, 3, 8, 7, 4, 5, 6]]
    # Fifth: right, up, left, down. 4 5 2 1 0 3 6 7 8.
    assert released_spiral_orders(3)[4, 0].tolist() == [4, 3, 2, 5, 0, 1, 6, 7, 8]
    # 2 x 2 begins at the last cell and walks over cells outside: 3, then left by way of nowhere.
    assert released_spiral_orders(2)[0, 0].tolist() == inverse_order(torch.tensor([3, 2, 0, 1])).tolist()
    assert released_spiral_orders(1).tolist() == [[[0], [0]]] * 8


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 14])
def test_published_tables_are_permutations_and_no_spirals(size):
    tables = released_spiral_orders(size)
    assert tables.shape == (8, 2, size * size)
    assert torch.equal(tables.sort(dim=-1).values, torch.arange(size * size).expand(8, 2, -1))
    assert torch.equal(tables.sum(dim=1), torch.full((8, size * size), size * size - 1))
    if size == 14:
        walked = torch.stack([steps(order, size).float().mean() for order in tables[:, 0]])
        true = torch.stack([steps(inverse_order(order), size).float().mean() for order in tables[:, 0]])
        assert 4.2 < walked.min() and walked.max() < 4.75  # what the published code does
        assert true.min() == 1 and true.max() < 1.14  # what its walk is: a long jump where it leaves the grid


@pytest.mark.filterwarnings("ignore")  # each table that a trace fixes is a warning
def test_tables_inside_a_graph_are_not_those_of_the_cache():
    def shuffled(x):
        return x[spiral_orders(3, 4)[1]] + x[released_spiral_orders(4)[2, 1][:12]]

    x = torch.randn(16)
    traced = torch.jit.trace(lambda x: shuffled(x), x, check_trace=False)
    assert torch.equal(traced(x + 1), shuffled(x + 1))

    class Module(torch.nn.Module):
        def forward(self, x):
            return shuffled(x)

    assert torch.equal(torch.export.export(Module(), (x,)).module()(x), shuffled(x))
    assert type(spiral_orders(3, 4)) is torch.Tensor  # no fake tensor has been kept
