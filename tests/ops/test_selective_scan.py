"""The choice of a backend, and what holds for every backend: argument checks, autocast."""

from __future__ import annotations

import inspect
import logging

import pytest
import torch

from monai_mamba_gen.ops import backends, scan_backends, selective_scan, selective_scan_ref


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


@pytest.mark.parametrize("backend", [None, "torch", "reference"])
def test_double_equals_the_reference(backend, scan_inputs, value_and_gradients, assert_same):
    inputs = scan_inputs(33, groups=2)
    actual = value_and_gradients(selective_scan, inputs, delta_softplus=True, backend=backend)
    expected = value_and_gradients(selective_scan_ref, inputs, delta_softplus=True)
    assert_same(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("groups", [None, 1, 2, 6])
@pytest.mark.parametrize("backend", [None, *scan_backends("cpu")])
def test_every_backend_equals_the_reference(backend, groups, scan_inputs, value_and_gradients, assert_same):
    inputs = scan_inputs(33, groups=groups)
    single = {name: tensor.float() for name, tensor in inputs.items()}
    actual = value_and_gradients(selective_scan, single, delta_softplus=True, backend=backend)
    expected = value_and_gradients(selective_scan_ref, inputs, delta_softplus=True)
    expected = {name: tensor.float() for name, tensor in expected.items()}
    assert_same(actual, expected, rtol=1e-4, atol=1e-5)


def test_groups_of_b_and_c_may_differ(scan_inputs, value_and_gradients, assert_same):
    inputs = scan_inputs(9, groups=2) | {"C": scan_inputs(9, groups=3)["C"]}
    actual = value_and_gradients(selective_scan, inputs)
    assert_same(actual, value_and_gradients(selective_scan_ref, inputs), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", scan_backends("cpu"))
def test_returns_the_last_state_only_when_asked(backend, scan_inputs):
    inputs = scan_inputs(7, dtype=torch.float32)
    y = selective_scan(**inputs, backend=backend)
    assert isinstance(y, torch.Tensor)
    with_state = selective_scan(**inputs, return_last_state=True, backend=backend)
    assert torch.equal(with_state[0], y)
    assert with_state[1].shape == (2, 6, 5)


def test_default_is_not_the_loop(scan_inputs):
    inputs = scan_inputs(3)
    assert backends._choose(None, inputs["u"], inputs["A"]).name != "reference"


def test_the_environment_names_the_default(scan_inputs, monkeypatch):
    inputs = scan_inputs(3)
    monkeypatch.setenv(backends.BACKEND_VARIABLE, "reference")
    assert backends._choose(None, inputs["u"], inputs["A"]).name == "reference"
    assert backends._choose("torch", inputs["u"], inputs["A"]).name == "torch"
    monkeypatch.setenv(backends.BACKEND_VARIABLE, "fast")
    with pytest.raises(ValueError, match="MONAI_MAMBA_GEN_BACKEND='fast' is unknown"):
        selective_scan(**inputs)


def test_says_once_when_no_kernel_can_be_used(scan_inputs, monkeypatch, caplog):
    missing = [
        backends.ScanBackend(b.name, b.function, lambda device: "not built", b.input_problem)
        for b in backends.BACKENDS[:1]
    ]
    monkeypatch.setattr(backends, "BACKENDS", (*missing, *backends.BACKENDS[1:]))
    backends._say_what_is_missing.cache_clear()
    with caplog.at_level(logging.WARNING, logger="monai_mamba_gen"):
        for _ in range(3):
            selective_scan(**scan_inputs(3, dtype=torch.float32))
    (record,) = caplog.records
    assert (
        "run in PyTorch (backend 'torch'), exact but several times slower than a kernel; native: not" in record.message
    )


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
    if backend == "native" and dtype == torch.float64:
        with pytest.raises(ValueError, match="backend='native' cannot be used here: .*float32, but u is float64"):
            selective_scan(**inputs, backend=backend)
        return
    y, last = selective_scan(**inputs, return_last_state=True, backend=backend)
    assert y.dtype == dtype
    assert last.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
