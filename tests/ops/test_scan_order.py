"""Scan orders against naive loops over a small grid."""

from __future__ import annotations

import pytest
import torch

from monai_mamba_gen.ops import cross_scan_orders, inverse_order, random_order, regenerate_orders

SIZES = [(1, 1), (1, 7), (7, 1), (2, 2), (3, 5), (5, 3), (4, 6), (9, 9)]


def naive_orders(height: int, width: int) -> list[list[int]]:
    rows = [i * width + j for i in range(height) for j in range(width)]
    columns = [i * width + j for j in range(width) for i in range(height)]
    return [rows, columns, rows[::-1], columns[::-1]]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_four_directions(height, width):
    orders = cross_scan_orders(height, width)
    assert orders.dtype == torch.int64
    assert orders.tolist() == naive_orders(height, width)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_order_then_inverse_is_the_identity(height, width):
    x = torch.randn(height * width)
    for order in cross_scan_orders(height, width):
        assert torch.equal(x[order][inverse_order(order)], x)
        assert torch.equal(x[inverse_order(order)][order], x)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_regenerated_orders_scan_the_shuffled_grid(height, width):
    """Shuffle the cells, then scan: the same as one composed table; its inverse undoes both, bit for bit."""
    shuffle = random_order(height * width, torch.Generator().manual_seed(3))
    x = torch.randn(height * width)
    plain = cross_scan_orders(height, width)
    composed = regenerate_orders(plain, shuffle)
    for direction in range(4):
        scanned = x[composed[direction]]
        assert torch.equal(scanned, x[shuffle][plain[direction]])
        assert torch.equal(scanned[inverse_order(composed)[direction]], x)


def test_tables_are_cached_per_size():
    assert cross_scan_orders(3, 5) is cross_scan_orders(3, 5)
    assert cross_scan_orders(3, 5) is not cross_scan_orders(5, 3)
    assert cross_scan_orders(3, 5, "meta").device.type == "meta"


@pytest.mark.parametrize(("height", "width"), [(0, 3), (3, 0), (-1, 2)])
def test_empty_grid(height, width):
    with pytest.raises(ValueError, match=f"height and width must be at least 1, got {height} and {width}"):
        cross_scan_orders(height, width)


@pytest.mark.parametrize("shuffle", [torch.arange(5), torch.arange(7), torch.arange(6)[None]])
def test_shuffle_of_another_size(shuffle):
    with pytest.raises(ValueError, match=r"shuffle must be \(6,\), got"):
        regenerate_orders(cross_scan_orders(2, 3), shuffle)


def test_generator_fixes_the_random_order():
    def draw(seed: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        return [random_order(20, generator).tolist() for _ in range(3)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    first, second, _ = draw(1)
    assert first != second
    assert sorted(first) == list(range(20))


def test_explicit_generator_leaves_the_global_one_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    random_order(20, torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), before)
    random_order(20)
    assert not torch.equal(torch.get_rng_state(), before)


def test_random_orders_are_uniform():
    """All 24 orders of four cells, 4800 draws: chi-square with 23 degrees of freedom below its 99.99 % quantile."""
    generator, draws, counts = torch.Generator().manual_seed(0), 4800, {}
    for _ in range(draws):
        order = tuple(random_order(4, generator).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24
    expected = draws / 24
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 56.1
