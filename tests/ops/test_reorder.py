"""Expansion, reordering and merge: against plain indexing, as adjoints of each other, and by finite differences."""

from __future__ import annotations

import pytest
import torch

from monai_mamba_gen.ops import (
    cross_scan_orders,
    inverse_order,
    random_order,
    regenerate_orders,
    scan_expand,
    scan_merge,
    scan_reorder,
)

SIZES = [(1, 1), (1, 7), (7, 1), (3, 5), (4, 4)]
K, BATCH, CHANNELS = 4, 2, 3


def make_orders(height: int, width: int) -> torch.Tensor:
    shuffle = random_order(height * width, torch.Generator().manual_seed(1))
    return regenerate_orders(cross_scan_orders(height, width), shuffle)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=SIZES, ids=str)
def orders(request) -> torch.Tensor:
    return make_orders(*request.param)


def test_expand_reads_each_order(orders):
    x = draw(orders.shape[1], BATCH, CHANNELS)
    expanded = scan_expand(x, orders)
    assert expanded.is_contiguous()
    for k in range(K):
        for t, cell in enumerate(orders[k]):
            assert torch.equal(expanded[t, :, k], x[cell])


def test_reorder_reads_each_sequence_in_its_order(orders):
    x = draw(orders.shape[1], BATCH, K, CHANNELS)
    reordered = scan_reorder(x, orders)
    assert reordered.is_contiguous()
    for k in range(K):
        assert torch.equal(reordered[:, :, k], x[orders[k], :, k])


def test_reorder_then_inverse_is_the_identity(orders):
    x = draw(orders.shape[1], BATCH, K, CHANNELS).float()
    assert torch.equal(scan_reorder(scan_reorder(x, orders), inverse_order(orders)), x)


def test_merge_puts_back_and_adds(orders):
    x = draw(orders.shape[1], BATCH, K, CHANNELS)
    expected = torch.zeros(orders.shape[1], BATCH, CHANNELS, dtype=x.dtype)
    for k in range(K):
        expected[orders[k]] += x[:, :, k]
    torch.testing.assert_close(scan_merge(x, orders), expected)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("direction", range(K))
def test_sequence_regeneration_then_its_inverse_is_the_identity(height, width, direction):
    """Shuffle, scan in one direction, put back: the image again, bit for bit."""
    order = make_orders(height, width)[direction : direction + 1]
    x = draw(height * width, BATCH, CHANNELS).float()
    assert torch.equal(scan_merge(scan_expand(x, order), order), x)


def test_four_merged_copies_are_four_times_the_sequence(orders):
    x = draw(orders.shape[1], BATCH, CHANNELS).float()
    assert torch.equal(scan_merge(scan_expand(x, orders), orders), 4 * x)


def test_expand_and_merge_are_adjoint(orders):
    x = draw(orders.shape[1], BATCH, CHANNELS)
    y = draw(orders.shape[1], BATCH, K, CHANNELS, seed=1)
    torch.testing.assert_close((scan_expand(x, orders) * y).sum(), (x * scan_merge(y, orders)).sum())


def test_reorder_and_its_inverse_are_adjoint(orders):
    x, y = (draw(orders.shape[1], BATCH, K, CHANNELS, seed=seed) for seed in (0, 1))
    torch.testing.assert_close((scan_reorder(x, orders) * y).sum(), (x * scan_reorder(y, inverse_order(orders))).sum())


@pytest.mark.parametrize("function", [scan_expand, scan_reorder, scan_merge])
def test_gradients(function, orders):
    shape = (orders.shape[1], 1, 2) if function is scan_expand else (orders.shape[1], 1, K, 2)
    x = draw(*shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: function(x, orders), [x])
    assert torch.autograd.gradgradcheck(lambda x: function(x, orders), [x])


def test_inputs_may_be_strided(orders):
    x = draw(BATCH, K, CHANNELS, orders.shape[1]).permute(3, 0, 1, 2)
    assert torch.equal(scan_reorder(x, orders), scan_reorder(x.contiguous(), orders))
    assert torch.equal(scan_merge(x, orders), scan_merge(x.contiguous(), orders))
    assert torch.equal(scan_expand(x[:, :, 0], orders), scan_expand(x[:, :, 0].contiguous(), orders))


@pytest.mark.parametrize("function", [scan_expand, scan_reorder, scan_merge])
def test_functional_transformations(function, orders):
    shape = (orders.shape[1], 1, 2) if function is scan_expand else (orders.shape[1], 1, K, 2)
    x = draw(3, *shape)
    expected = torch.stack([function(one, orders) for one in x])
    assert torch.equal(torch.func.vmap(lambda x: function(x, orders))(x), expected)
    y = draw(*expected.shape[1:], seed=1)
    leaf = x[0].clone().requires_grad_()
    (expected,) = torch.autograd.grad(function(leaf, orders), leaf, y)
    assert torch.equal(torch.func.vjp(lambda x: function(x, orders), x[0])[1](y)[0], expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("function", [scan_expand, scan_reorder, scan_merge])
def test_a_trace_and_an_export_hold_the_same_values_and_gradients(function, orders):
    class Module(torch.nn.Module):
        def forward(self, x):
            return function(x, orders)

    shape = (orders.shape[1], BATCH, CHANNELS) if function is scan_expand else (orders.shape[1], BATCH, K, CHANNELS)
    x, module = draw(*shape).requires_grad_(), Module()
    expected = module(x)
    weight = draw(*expected.shape, seed=1)
    for exported in (torch.jit.trace(module, x), torch.export.export(module, (x,)).module()):
        assert torch.equal(exported(x), expected)
        grads = [torch.autograd.grad(y, x, weight, retain_graph=True)[0] for y in (exported(x), expected)]
        torch.testing.assert_close(*grads)
