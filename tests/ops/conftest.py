"""Inputs and comparisons shared by the tests of the selective scan, as fixtures that return functions."""

from __future__ import annotations

import pytest
import torch

from monai_mamba_gen.ops import selective_scan, selective_scan_ref


def make_inputs(
    length: int,
    batch: int = 2,
    channels: int = 6,
    state: int = 5,
    groups: int | None = 1,
    optional: bool = True,
    dtype: torch.dtype = torch.float64,
) -> dict[str, torch.Tensor]:
    """Random arguments of `selective_scan`; ``groups=None`` gives B and C without a group dimension."""
    generator = torch.Generator().manual_seed(length)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    matrix = (batch, state, length) if groups is None else (batch, groups, state, length)
    inputs = {
        "u": draw(batch, channels, length),
        "delta": 0.5 * draw(batch, channels, length),
        "A": -4 * torch.rand(channels, state, generator=generator, dtype=torch.float64),
        "B": draw(*matrix),
        "C": draw(*matrix),
    }
    if optional:
        inputs |= {"D": draw(channels), "z": draw(batch, channels, length), "delta_bias": draw(channels)}
    return {name: tensor.to(dtype) for name, tensor in inputs.items()}


def run_both_ways(function, inputs: dict[str, torch.Tensor], **options) -> dict[str, torch.Tensor]:
    """y, the last state, and the gradient of a generic function of both in every input."""
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in inputs.items()}
    y, last = function(**leaves, return_last_state=True, **options)
    weight = torch.cos(torch.arange(y.numel(), dtype=torch.float64)).view_as(y)
    ((y * weight).sum() + last.square().sum()).backward()
    return {"y": y.detach(), "last": last.detach()} | {f"d{name}": leaf.grad for name, leaf in leaves.items()}


def compare(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], rtol: float, atol: float) -> None:
    """Every entry close, of the same dtype and shape, the message naming the entry."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture
def scan_inputs():
    return make_inputs


@pytest.fixture
def value_and_gradients():
    return run_both_ways


@pytest.fixture
def assert_same():
    return compare


@pytest.fixture
def compare_with_reference():
    def check(inputs: dict[str, torch.Tensor], rtol: float, atol: float, **options) -> None:
        expected = run_both_ways(selective_scan_ref, inputs, **options)
        compare(run_both_ways(selective_scan, inputs, backend="torch", **options), expected, rtol, atol)

    return check
