"""The CUDA kernel's adapter, with a stand-in for the kernel: what reaches it, what comes back, when it is refused."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

from monai_mamba_gen.ops import (
    ScanBackend,
    backends,
    cross_scan_orders,
    mamba_ssm_scan,
    ordered_scan,
    scan_backends,
    selective_scan,
    selective_scan_ref,
)
from monai_mamba_gen.ops.mamba_ssm_scan import scan_mamba_ssm
from monai_mamba_gen.ops.reference import scan_reference

CUDA = torch.device("cuda")
NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias")
HEIGHT, WIDTH = 3, 5
LENGTH, SETS = HEIGHT * WIDTH, 4


@pytest.fixture
def cuda(monkeypatch):
    """A machine that says it has CUDA; nothing is moved there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    mamba_ssm_scan._load.cache_clear()
    yield
    mamba_ssm_scan._load.cache_clear()


@pytest.fixture
def kernel_calls(cuda, monkeypatch):
    """Install a package whose kernel is the reference; return the list of the arguments of its calls."""
    calls = []

    def selective_scan_fn(
        u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
    ):
        calls.append(locals())
        y, last = selective_scan_ref(u, delta, A, B, C, D, z, delta_bias, delta_softplus, True)
        return (y, last.detach()) if return_last_state else y  # the kernel gives its last state no gradient

    interface = ModuleType("mamba_ssm.ops.selective_scan_interface")
    interface.selective_scan_fn = selective_scan_fn
    for name in ("selective_scan_cuda", "mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    return calls


def draw(length: int = LENGTH, shared: bool = True, optional: bool = True, states: int = 3) -> list:
    """u, delta, A, B, C, D and delta_bias in the form that all backends share, float32."""
    generator = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    weights = [normal(SETS, 6), normal(SETS, 6)] if optional else [None, None]
    u = normal(2, 1 if shared else SETS, 6, length)
    matrices = [normal(2, SETS, states, length), normal(2, SETS, states, length)]
    return [u, 0.5 * normal(2, SETS, 6, length), -4 * normal(SETS, 6, states).abs(), *matrices, *weights]


def both_ways(function, inputs, options, dtype, of_last: bool = True, of_y: bool = True):
    """Results, and the gradients of a generic function of them."""
    leaves = [None if m is None else m.detach().to(dtype).requires_grad_() for m in inputs]
    y, last = function(*leaves, *options)
    weight = torch.cos(torch.arange(y.numel(), dtype=torch.float64)).view_as(y)
    loss = (y * weight).sum() * of_y + (last.double().square().sum() if of_last else 0)
    given = [m for m in leaves if m is not None]
    gradients = torch.autograd.grad(loss, given, allow_unused=not of_y)
    names = [name for name, m in zip(NAMES, leaves, strict=True) if m is not None]
    results = {"y": y.detach(), "last": last.detach()}
    return results | {f"d{n}": torch.zeros_like(m) if g is None else g for n, m, g in zip(names, given, gradients)}


def check(inputs, *options, **which) -> None:
    actual = both_ways(scan_mamba_ssm, inputs, options, torch.float32, **which)
    expected = both_ways(scan_reference, inputs, options, torch.float64, **which)
    for name, value in expected.items():
        torch.testing.assert_close(
            actual[name].double(),
            value,
            rtol=1e-5,
            atol=1e-5 * value.abs().max().item(),
            msg=lambda m, n=name: f"{n}: {m}",
        )


def test_arguments_reach_the_kernel_in_their_places(kernel_calls):
    u, delta, A, B, C, D, bias = inputs = draw(shared=False)
    y, last = scan_mamba_ssm(*inputs, None, True, "none")
    (call,) = kernel_calls
    flat = {"u": u.flatten(1, 2), "delta": delta.flatten(1, 2), "A": A.flatten(0, 1), "B": B, "C": C, "D": D.flatten()}
    for name, tensor in (flat | {"delta_bias": bias.flatten()}).items():
        assert torch.equal(call[name], tensor), name
    assert (call["z"], call["delta_softplus"], call["return_last_state"]) == (None, True, True)
    expected = scan_reference(*inputs, None, True, "none")
    torch.testing.assert_close((y, last), expected, rtol=1e-5, atol=1e-5)


def test_optional_arguments_stay_absent(kernel_calls):
    scan_mamba_ssm(*draw(optional=False), None, False, "sum")
    (call,) = kernel_calls
    assert [call[name] for name in ("D", "z", "delta_bias", "delta_softplus")] == [None, None, None, False]


def test_inputs_are_put_into_the_order_of_time(kernel_calls):
    u, delta, _, B, C, _, _ = inputs = draw()
    orders = cross_scan_orders(HEIGHT, WIDTH)
    y, _ = scan_mamba_ssm(*inputs, orders, True, "sum")
    (call,) = kernel_calls
    for k, order in enumerate(orders):
        assert torch.equal(call["u"].unflatten(1, (SETS, -1))[:, k], u[:, 0, :, order])
        assert torch.equal(call["delta"].unflatten(1, (SETS, -1))[:, k], delta[:, k, :, order])
        assert torch.equal(call["B"][:, k], B[:, k, :, order])
        assert torch.equal(call["C"][:, k], C[:, k, :, order])
    assert y.shape == (2, 1, 6, LENGTH)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize(("shared", "optional", "softplus"), [(True, True, True), (False, False, False)])
def test_values_and_gradients(reduction, ordered, shared, optional, softplus, kernel_calls):
    orders = cross_scan_orders(HEIGHT, WIDTH) if ordered else None
    check(draw(shared=shared, optional=optional), orders, softplus, reduction)


def test_the_last_state_alone_has_a_gradient(kernel_calls):
    check(draw(), cross_scan_orders(HEIGHT, WIDTH), True, "sum", of_y=False)
    check(draw(optional=False), None, True, "sum", of_y=False)


def test_gradient_of_the_last_state_where_only_some_inputs_want_one(kernel_calls):
    inputs = draw()
    grads = []
    for function in (scan_mamba_ssm, scan_reference):
        leaf = inputs[3].clone().requires_grad_()
        _, last = function(*inputs[:3], leaf, *inputs[4:], None, True, "sum")
        grads += torch.autograd.grad(last.sum(), leaf)
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-5)


def test_nothing_is_kept_without_gradients(kernel_calls):
    with torch.no_grad():
        y, last = scan_mamba_ssm(*(m.requires_grad_() for m in draw()), None, True, "sum")
    assert not y.requires_grad
    assert not last.requires_grad


@pytest.mark.parametrize(
    ("length", "fills"),
    [(1, False), (100, False), (128, False), (200, False), (256, True), (300, False), (512, True), (1000, False)]
    + [(1024, True), (1025, False), (2048, True), (3072, False), (4096, True)],
)
def test_lengths_that_fill_the_backward_kernels_blocks(length, fills):
    assert mamba_ssm_scan._fills_blocks(length) is fills


@pytest.mark.parametrize(("length", "guarded"), [(255, True), (256, False)])
def test_odd_lengths_reach_the_backward_kernel_without_softplus_and_bias(length, guarded, kernel_calls):
    """The kernel's backward pass goes beyond the end with softplus(0 + bias): state-spaces/mamba issue 368."""
    inputs = draw(length, states=1)
    check(inputs, None, True, "sum")
    (call,) = kernel_calls
    assert call["delta_softplus"] is not guarded
    assert (call["delta_bias"] is None) is guarded
    _, delta, *_, bias = inputs
    dt = F.softplus(delta + bias[:, :, None]) if guarded else delta
    assert torch.equal(call["delta"], dt.flatten(1, 2))
    with torch.no_grad():
        scan_mamba_ssm(*inputs, None, True, "sum")
    assert kernel_calls[1]["delta_softplus"] is True  # the forward kernel knows where the sequence ends


def test_a_bias_alone_is_guarded_too(kernel_calls):
    u, delta, A, B, C, D, bias = draw(7)
    check([u, delta.abs(), A, B, C, D, bias.abs()], None, False, "sum")
    assert kernel_calls[0]["delta_bias"] is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_public_scans_give_the_kernel_single(dtype, kernel_calls, scan_inputs, monkeypatch):
    monkeypatch.setattr(backends, "BACKENDS", (ScanBackend("mamba_ssm", scan_mamba_ssm),))  # CPU tensors pass
    y, last = selective_scan(**scan_inputs(7, groups=2, dtype=dtype), return_last_state=True)
    x, delta, B = torch.randn(2, 6, 8), torch.rand(2, 6, 4, 8), torch.randn(2, 6, 4, 3)
    merged = ordered_scan(x.to(dtype), delta.to(dtype), -torch.rand(4, 8, 3), B, B, orders=cross_scan_orders(2, 3))
    for call in kernel_calls:
        assert {value.dtype for value in call.values() if isinstance(value, torch.Tensor)} == {torch.float32}
    assert (y.dtype, last.dtype, merged.dtype) == (dtype, torch.float32, dtype)


def test_listed_first_where_it_is_usable(kernel_calls):
    assert scan_backends("cuda")[0] == "mamba_ssm"
    assert "mamba_ssm" in scan_backends()
    assert "mamba_ssm" not in scan_backends("cpu")


def test_not_chosen_for_tensors_on_the_cpu(kernel_calls, scan_inputs):
    selective_scan(**scan_inputs(7, dtype=torch.float32))
    assert not kernel_calls


def hide(monkeypatch, *modules: str) -> None:
    for name in modules:
        monkeypatch.setitem(sys.modules, name, None)  # an import of it raises ImportError


def test_package_without_the_kernel_is_refused(kernel_calls, monkeypatch):
    """mamba-ssm has been built without its kernel by default since 2026; the package alone says nothing."""
    hide(monkeypatch, "selective_scan_cuda")
    assert "selective_scan_cuda" in mamba_ssm_scan.mamba_ssm_problem(CUDA)
    assert "mamba_ssm" not in scan_backends("cuda")


def test_missing_package_is_refused(cuda, monkeypatch):
    hide(monkeypatch, "selective_scan_cuda", "mamba_ssm")
    assert "cannot be imported" in mamba_ssm_scan.mamba_ssm_problem(CUDA)


def test_a_package_that_breaks_on_import_is_refused(kernel_calls, monkeypatch):
    def broken(name):
        raise RuntimeError(f"{name} was built for another torch")

    monkeypatch.setattr(mamba_ssm_scan.importlib, "import_module", broken)
    assert "RuntimeError: selective_scan_cuda was built for another" in mamba_ssm_scan.mamba_ssm_problem(CUDA)


def test_machine_without_cuda_is_refused(kernel_calls, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert mamba_ssm_scan.mamba_ssm_problem() == "torch finds no CUDA device"
    assert mamba_ssm_scan.mamba_ssm_problem(torch.device("cpu")) == "the kernel runs on CUDA only, not on cpu"


@pytest.mark.parametrize(
    ("u", "A", "reason"),
    [
        (torch.zeros(1, 1, 2, 3, dtype=torch.float64), torch.zeros(1, 2, 4), "u is float64"),
        (torch.zeros(1, 1, 2, 3), torch.zeros(1, 2, 257), "at most 256 states, A has 257"),
    ],
)
def test_inputs_it_cannot_take(u, A, reason):
    backend = next(backend for backend in backends.BACKENDS if backend.name == "mamba_ssm")
    assert reason in backend.input_problem(u, A)
    assert backend.input_problem(torch.zeros(1, 1, 2, 3), torch.zeros(1, 2, 16)) is None
