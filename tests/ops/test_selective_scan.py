"""The choice of a backend, and what holds for every backend: argument checks, autocast."""

from __future__ import annotations

import inspect
import sys

import pytest
import torch

from monai_mamba_gen.ops import scan_backends, selective_scan, selective_scan_ref


def test_signature_is_that_of_mamba_ssm():
    names = ["u", "delta", "A", "B", "C", "D", "z", "delta_bias", "delta_softplus", "return_last_state"]
    parameters = inspect.signature(selective_scan).parameters
    assert list(parameters) == [*names, "backend"]
    assert parameters["backend"].kind is inspect.Parameter.KEYWORD_ONLY
    assert list(inspect.signature(selective_scan_ref).parameters) == names


def test_backends_on_the_cpu():
    assert scan_backends("cpu")[-2:] == ["torch", "reference"]
    assert "mamba_ssm" not in scan_backends("cpu")
    assert set(scan_backends("cpu")) <= set(scan_backends())
    assert scan_backends(torch.device("cpu")) == scan_backends("cpu")


@pytest.mark.parametrize("backend", [None, *scan_backends("cpu")])
def test_every_backend_equals_the_reference(backend, scan_inputs, value_and_gradients, assert_same):
    inputs = scan_inputs(33, groups=2)
    actual = value_and_gradients(selective_scan, inputs, delta_softplus=True, backend=backend)
    expected = value_and_gradients(selective_scan_ref, inputs, delta_softplus=True)
    assert_same(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", scan_backends("cpu"))
def test_returns_the_last_state_only_when_asked(backend, scan_inputs):
    inputs = scan_inputs(7)
    y = selective_scan(**inputs, backend=backend)
    assert isinstance(y, torch.Tensor)
    with_state = selective_scan(**inputs, return_last_state=True, backend=backend)
    assert torch.equal(with_state[0], y)
    assert with_state[1].shape == (2, 6, 5)


def test_default_is_not_the_loop(scan_inputs):
    module = sys.modules["monai_mamba_gen.ops.selective_scan"]  # an import would give the function of that name
    assert module._choose(None, scan_inputs(3)["u"], scan_inputs(3)["A"]).name != "reference"


def test_unknown_backend(scan_inputs):
    with pytest.raises(ValueError, match="backend='cuda' is unknown; allowed: None or one of .*'torch', 'reference'"):
        selective_scan(**scan_inputs(3), backend="cuda")


def test_unusable_backend_says_why(scan_inputs):
    with pytest.raises(ValueError, match="backend='mamba_ssm' cannot be used here: .*CUDA only.*usable: .*'torch'"):
        selective_scan(**scan_inputs(3), backend="mamba_ssm")


@pytest.mark.parametrize("backend", scan_backends("cpu"))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_arithmetic_is_single_inside_autocast(backend, dtype, scan_inputs, value_and_gradients, assert_same):
    inputs = scan_inputs(64, groups=2, dtype=torch.float32)
    outside = value_and_gradients(selective_scan, inputs, delta_softplus=True, backend=backend)
    with torch.autocast("cpu", dtype=dtype):
        inside = value_and_gradients(selective_scan, inputs, delta_softplus=True, backend=backend)
    assert_same(inside, outside, rtol=0, atol=0)


@pytest.mark.parametrize("backend", scan_backends("cpu"))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_result_has_the_dtype_of_u(backend, dtype, scan_inputs):
    inputs = scan_inputs(7, dtype=torch.float32)
    inputs["u"] = inputs["u"].to(dtype)
    y, last = selective_scan(**inputs, return_last_state=True, backend=backend)
    assert y.dtype == dtype
    assert last.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
