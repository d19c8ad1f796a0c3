"""The CUDA kernel's adapter, with a stand-in for the kernel: what reaches it, and when it is refused."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch

from monai_mamba_gen.ops import mamba_ssm_scan, scan_backends, selective_scan, selective_scan_ref

CUDA = torch.device("cuda")


@pytest.fixture
def cuda(monkeypatch):
    """A machine that says it has CUDA; nothing is moved there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    mamba_ssm_scan._interface.cache_clear()
    yield
    mamba_ssm_scan._interface.cache_clear()


@pytest.fixture
def kernel_calls(cuda, monkeypatch):
    """Install a package whose kernel is the reference; return the list of the arguments of its calls."""
    calls = []

    def selective_scan_fn(
        u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
    ):
        calls.append(locals())
        return selective_scan_ref(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state)

    interface = ModuleType("mamba_ssm.ops.selective_scan_interface")
    interface.selective_scan_fn = selective_scan_fn
    for name in ("selective_scan_cuda", "mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    return calls


def hide(monkeypatch, *modules: str) -> None:
    for name in modules:
        monkeypatch.setitem(sys.modules, name, None)  # an import of it raises ImportError


def test_arguments_reach_the_kernel_in_their_places(kernel_calls, scan_inputs):
    inputs = scan_inputs(7, groups=2, dtype=torch.float32)
    y, last = mamba_ssm_scan.selective_scan_mamba_ssm(**inputs, delta_softplus=True, return_last_state=True)
    (call,) = kernel_calls
    assert all(torch.equal(call[name], tensor) for name, tensor in inputs.items())
    assert call["delta_softplus"] is True
    assert call["return_last_state"] is True
    expected = selective_scan_ref(**inputs, delta_softplus=True, return_last_state=True)
    assert torch.equal(y, expected[0])
    assert torch.equal(last, expected[1])


def test_optional_arguments_stay_absent(kernel_calls, scan_inputs):
    y = mamba_ssm_scan.selective_scan_mamba_ssm(**scan_inputs(7, optional=False, dtype=torch.float32))
    assert isinstance(y, torch.Tensor)
    (call,) = kernel_calls
    assert [call[name] for name in ("D", "z", "delta_bias")] == [None, None, None]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_kernel_computes_in_single(dtype, kernel_calls, scan_inputs):
    y, last = mamba_ssm_scan.selective_scan_mamba_ssm(**scan_inputs(7, dtype=dtype), return_last_state=True)
    assert {value.dtype for value in kernel_calls[0].values() if isinstance(value, torch.Tensor)} == {torch.float32}
    assert y.dtype == dtype
    assert last.dtype == torch.float32


def test_listed_first_where_it_is_usable(kernel_calls):
    assert scan_backends("cuda")[0] == "mamba_ssm"
    assert scan_backends()[0] == "mamba_ssm"
    assert "mamba_ssm" not in scan_backends("cpu")


def test_not_chosen_for_tensors_on_the_cpu(kernel_calls, scan_inputs):
    selective_scan(**scan_inputs(7, dtype=torch.float32))
    assert not kernel_calls


def test_package_without_the_kernel_is_refused(kernel_calls, monkeypatch):
    """mamba-ssm has been built without its kernel by default since 2026; the package alone says nothing."""
    hide(monkeypatch, "selective_scan_cuda")
    assert "selective_scan_cuda" in mamba_ssm_scan.mamba_ssm_problem(CUDA)
    assert "mamba_ssm" not in scan_backends("cuda")


def test_missing_package_is_refused(cuda, monkeypatch):
    hide(monkeypatch, "selective_scan_cuda", "mamba_ssm")
    assert "cannot be imported" in mamba_ssm_scan.mamba_ssm_problem(CUDA)


def test_machine_without_cuda_is_refused(kernel_calls, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert mamba_ssm_scan.mamba_ssm_problem() == "torch finds no CUDA device"
    assert mamba_ssm_scan.mamba_ssm_problem(torch.device("cpu")) == "the kernel runs on CUDA only, not on cpu"


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({"length": 3, "dtype": torch.float64}, "u is float64"),
        ({"length": 3, "dtype": torch.float32, "state": 257}, "at most 256 states, A has 257"),
        ({"length": 0, "dtype": torch.float32}, "u is empty"),
    ],
)
def test_inputs_it_cannot_take(inputs, reason, kernel_calls, scan_inputs):
    arguments = scan_inputs(**inputs)
    module = sys.modules["monai_mamba_gen.ops.selective_scan"]
    backend = next(backend for backend in module._BACKENDS if backend.name == "mamba_ssm")
    assert reason in backend.input_problem(arguments["u"], arguments["A"])
    assert backend.input_problem(torch.zeros(1, 2, 3), torch.zeros(2, 16)) is None
