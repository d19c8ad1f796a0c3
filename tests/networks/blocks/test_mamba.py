"""Mamba's block against itself written out slowly, one order after the other."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from monai_mamba_gen.networks.blocks import Mamba
from monai_mamba_gen.ops import scan_backends, spiral_orders
from tests.networks.nets import diffma_reference as published


def make(d_model: int = 8, seed: int = 0, **arguments) -> Mamba:
    torch.manual_seed(seed)
    block = Mamba(d_model, **arguments)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return block


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def slow(block: Mamba, tokens: torch.Tensor, orders: torch.Tensor | None) -> torch.Tensor:
    state = {f"m.{name}": parameter for name, parameter in block.named_parameters()}
    return published.mamba(state, "m", tokens, None if orders is None else orders.tolist())


@pytest.mark.parametrize("orders", [None, spiral_orders(3, 4), spiral_orders(3, 4)[:3], spiral_orders(3, 4)[5:6]])
@pytest.mark.parametrize(
    "arguments", [{}, {"d_state": 3, "d_conv": 2, "expand": 1, "dt_rank": 5}, {"d_conv": 1}], ids=str
)
def test_values_and_gradients(orders, arguments):
    block = make(**arguments)
    weights = draw(2, 12, 8)
    results = []
    for function in (block, lambda x, o: slow(block, x, o)):
        tokens = draw(2, 12, 8).requires_grad_()
        y = function(tokens, orders)
        gradients = torch.autograd.grad((y * weights).sum(), [tokens, *block.parameters()])
        results.append([y.detach(), *gradients])
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("backend", scan_backends("cpu"))
def test_every_backend(backend):
    block, tokens, orders = make(), draw(2, 12, 8), spiral_orders(4, 3)
    expected = slow(block, tokens, orders)
    block.scan_backend = backend
    torch.testing.assert_close(block(tokens, orders), expected, rtol=1e-4, atol=1e-5)


def test_orders_are_added_up():
    block, tokens, orders = make(), draw(2, 12, 8), spiral_orders(3, 4)
    apart = sum(block(tokens, order[None]) for order in orders)
    torch.testing.assert_close(block(tokens, orders), apart, rtol=1e-4, atol=1e-5)
    raster = torch.arange(12)[None]
    torch.testing.assert_close(block(tokens, raster), block(tokens))


def test_a_token_sees_the_past_of_its_sequence_only():
    block, order = make(), spiral_orders(3, 4)[:1]
    tokens = draw(1, 12, 8)
    changed = tokens.clone()
    changed[:, order[0, 7]] += 1.0
    difference = (block(changed, order) - block(tokens, order)).abs().sum(dim=(0, 2))[order[0]]
    assert (difference[:7] < 1e-6).all() and (difference[7:] > 1e-6).all()


@pytest.mark.parametrize("length", [1, 2, 3])
def test_fewer_tokens_than_the_convolution_is_wide(length):
    block, tokens = make(), draw(2, length, 8)
    orders = torch.arange(length).expand(3, -1)
    torch.testing.assert_close(block(tokens, orders), slow(block, tokens, orders), rtol=1e-4, atol=1e-5)


def test_names_and_shapes_are_those_of_mamba_ssm():
    assert {name: tuple(value.shape) for name, value in Mamba(32).state_dict().items()} == {
        "A_log": (64, 16),
        "D": (64,),
        "in_proj.weight": (128, 32),
        "conv1d.weight": (64, 1, 4),
        "conv1d.bias": (64,),
        "x_proj.weight": (2 + 32, 64),
        "dt_proj.weight": (64, 2),
        "dt_proj.bias": (64,),
        "out_proj.weight": (32, 64),
    }


def test_step_sizes_start_where_mambas_do():
    torch.manual_seed(0)
    block = Mamba(256)
    dt = F.softplus(block.dt_proj.bias.detach().double())
    assert 0.99e-3 < dt.min() and dt.max() < 0.101
    assert 0.005 < dt.median() < 0.02  # log-uniform: sqrt(0.001 * 0.1) = 0.01
    assert block.dt_proj.weight.abs().max() <= 16**-0.5
    torch.testing.assert_close(block.A_log.detach().exp(), torch.arange(1.0, 17).expand(512, -1))
    assert (block.D == 1).all()
    assert block.A_log._no_weight_decay and block.D._no_weight_decay


@pytest.mark.parametrize(("dtype", "factor"), [(torch.bfloat16, 100), (torch.float16, 3)])
def test_autocast_scans_in_single_precision(dtype, factor):
    block, tokens, orders = make(), draw(2, 12, 8), spiral_orders(3, 4)
    expected = block(tokens, orders)
    with torch.autocast("cpu", dtype=dtype):
        y = block(factor * tokens, orders)
        close = block(tokens, orders)
    assert y.dtype == dtype and y.isfinite().all()
    assert (close.float() - expected).abs().max() < 0.05 * expected.abs().max()
    y.float().square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in block.parameters())


def test_double_precision():
    block, tokens, orders = make(), draw(2, 12, 8), spiral_orders(3, 4)
    single = block(tokens, orders)
    y = block.double()(tokens.double(), orders)
    assert y.dtype == torch.float64
    torch.testing.assert_close(y.float(), single, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dt_rank": "all"}, "dt_rank must be an integer or 'auto', got 'all'"),
        ({"d_state": 0}, "d_state must be at least 1, got 0"),
        ({"d_conv": 0}, "d_conv must be at least 1, got 0"),
        ({"expand": 0}, "expand must leave at least one inner channel, got 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Mamba(8, **arguments)
