"""The C kernel at every instruction set of this machine against float64, and what its results must not depend on."""

from __future__ import annotations

import importlib
import math

import pytest
import torch

from monai_mamba_gen.ops import (
    cross_scan_orders,
    native_module,
    native_scan,
    ordered_scan,
    selective_scan,
    selective_scan_ref,
)
from monai_mamba_gen.ops.native_module import instruction_set, instruction_sets

pytestmark = pytest.mark.skipif(
    native_module.native_problem() is not None, reason=f"no C kernel: {native_module.native_problem()}"
)
FORWARD, GRADIENT = 1e-6, 5e-6  # largest error, of the largest value


@pytest.fixture(params=instruction_sets() or ["none"])
def level(request):
    """Every instruction set of this processor in turn."""
    with instruction_set(request.param):
        yield request.param


def draw(batch, sets, channels, length, states, seed=0) -> dict[str, torch.Tensor]:
    """Float32 arguments of `selective_scan`, all optional ones but the gate given."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "u": normal(batch, sets * channels, length),
        "delta": 0.5 * normal(batch, sets * channels, length),
        "A": -torch.arange(1, states + 1.0).repeat(sets * channels, 1),
        "B": normal(batch, sets, states, length),
        "C": normal(batch, sets, states, length),
        "D": normal(sets * channels),
        "delta_bias": normal(sets * channels) - 4,
    }


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest error over largest value."""
    if expected.numel() == 0:
        return 0.0 if actual.shape == expected.shape else math.inf
    return float((actual.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


def results(function, inputs, **options) -> list[torch.Tensor]:
    """y, the last state, and every gradient of a random function of both."""
    leaves = {
        name: m.detach().clone(memory_format=torch.preserve_format).requires_grad_() for name, m in inputs.items()
    }
    y, last = function(**leaves, return_last_state=True, **options)
    weights = (torch.cos(torch.arange(m.numel(), dtype=torch.float64)).view(m.shape).to(m.dtype) for m in (y, last))
    outputs, weights = zip(*((m, weight) for m, weight in zip((y, last), weights, strict=True) if m.requires_grad))
    gradients = torch.autograd.grad(outputs, list(leaves.values()), weights, materialize_grads=True)
    return [y.detach(), last.detach(), *gradients]


def check(inputs, **options) -> None:
    actual = results(selective_scan, inputs, backend="native", **options)
    expected = results(selective_scan_ref, {name: m.double() for name, m in inputs.items()}, **options)
    names = ["y", "last state", *(f"gradient of {name}" for name in inputs)]
    for index, name in enumerate(names):
        bound = FORWARD if index < 2 else GRADIENT
        assert relative(actual[index], expected[index]) <= bound, name


@pytest.mark.parametrize("softplus", [True, False])
@pytest.mark.parametrize(
    "shape",
    [(2, 2, 5, 7, 3), (1, 1, 1, 1, 1), (1, 1, 16, 64, 16), (2, 2, 40, 129, 5), (1, 3, 33, 257, 1), (2, 1, 17, 33, 17)],
)
def test_odd_sizes(level, shape, softplus):
    inputs = draw(*shape, seed=sum(shape))
    if not softplus:
        inputs["delta"] = inputs["delta"].abs()
        inputs["delta_bias"] = inputs["delta_bias"].abs() * 0.01
    check(inputs, delta_softplus=softplus)


def test_long_sequence(level):
    check(draw(1, 1, 3, 4099, 2), delta_softplus=True)


EXTREMES = {
    "large steps": lambda x: x["delta"].add_(60),
    "tiny steps": lambda x: x["delta_bias"].sub_(36),
    "both": lambda x: x["delta"].mul_(40),
    "decay to nothing": lambda x: x["A"].mul_(1000),
    "no decay": lambda x: x["A"].zero_(),
    "growth": lambda x: x["A"].mul_(-0.003),
}


@pytest.mark.parametrize("name", EXTREMES)
def test_extreme_values(level, name):
    inputs = draw(2, 2, 9, 67, 4, seed=3)
    EXTREMES[name](inputs)
    check(inputs, delta_softplus=True)


def test_fuzz(level):
    """Random sizes, options and strides."""
    generator = torch.Generator().manual_seed(11)

    def integer(high: int) -> int:
        return int(torch.randint(1, high + 1, (), generator=generator))

    for seed in range(25):
        inputs = draw(integer(3), integer(4), integer(70), integer(100), integer(20), seed=seed)
        for name in ("D", "delta_bias"):
            if integer(3) == 1:
                del inputs[name]
        softplus = integer(2) == 1
        if not softplus:  # the steps themselves, which must not be negative for the states to stay finite
            inputs["delta"] = inputs["delta"].abs()
            inputs.pop("delta_bias", None)
        for name, m in inputs.items():
            if m.ndim >= 3 and integer(2) == 1:  # channels last in memory
                inputs[name] = m.movedim(-1, 1).contiguous().movedim(1, -1)
            elif m.ndim >= 3 and integer(4) == 1:  # every second element of something larger
                inputs[name] = torch.stack([m, torch.full_like(m, torch.nan)], dim=-1)[..., 0]
        check(inputs, delta_softplus=softplus)


@pytest.mark.parametrize("empty", ["batch", "length", "states"])
def test_empty_inputs(empty):
    sizes = {"batch": 2, "sets": 1, "channels": 3, "length": 5, "states": 2} | {empty: 0}
    inputs = draw(**sizes)
    expected = results(selective_scan_ref, inputs)
    assert all(m.isfinite().all() for m in expected)
    for actual, wanted in zip(results(selective_scan, inputs, backend="native"), expected, strict=True):
        assert torch.equal(actual, wanted)


def test_expanded_inputs(level):
    inputs = draw(2, 1, 6, 40, 3)
    shared = {name: m[:1].expand_as(m) if m.ndim >= 3 else m for name, m in inputs.items()}
    leaves = {name: m.double() for name, m in shared.items()}
    with torch.no_grad():
        y = selective_scan(**shared, delta_softplus=True, backend="native")
        assert relative(y, selective_scan_ref(**leaves, delta_softplus=True)) <= FORWARD
    u = inputs["u"].clone().requires_grad_()
    selective_scan(
        **inputs | {"u": u}, delta_softplus=True, backend="native"
    ).sum().backward()  # a gradient of stride 0
    v = inputs["u"].double().requires_grad_()
    doubles = {name: m.double() for name, m in inputs.items()} | {"u": v}
    selective_scan_ref(**doubles, delta_softplus=True).sum().backward()
    assert relative(u.grad, v.grad) <= GRADIENT


def test_not_a_number_stays_in_its_channel_and_after_its_time(level):
    inputs = draw(1, 1, 20, 70, 4)
    clean = selective_scan(**inputs, delta_softplus=True, backend="native")
    inputs["u"][0, 5, 40] = torch.nan
    y = selective_scan(**inputs, delta_softplus=True, backend="native")
    touched = torch.zeros_like(y, dtype=torch.bool)
    touched[0, 5, 40:] = True
    assert y[touched].isnan().all()
    assert torch.equal(y[~touched], clean[~touched])


def ordered(batch, length, sets, channels, states, shared, seed=0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    x = normal(batch, length, channels) if shared else normal(batch, length, sets, channels)
    return [
        x,
        0.5 * normal(batch, length, sets, channels),
        -torch.arange(1, states + 1.0).expand(sets, channels, -1).clone(),
        normal(batch, length, sets, states),
        normal(batch, length, sets, states),
        normal(sets, channels),
        normal(sets, channels) - 4,
    ]


def ordered_results(inputs, orders, reduction, backend) -> list[torch.Tensor]:
    leaves = [m.detach().clone().requires_grad_() for m in inputs]
    y = ordered_scan(*leaves, orders, True, reduction, backend=backend)
    weight = torch.cos(torch.arange(y.numel(), dtype=torch.float64)).view_as(y).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, leaves, weight)]


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("shape", [(2, 12, 4, 6, 5), (1, 64, 4, 40, 16), (3, 100, 2, 33, 1), (2, 7, 1, 16, 4)])
def test_scan_in_orders(level, shape, shared, reduction):
    inputs = ordered(*shape, shared)
    orders = torch.stack([torch.randperm(shape[1]) for _ in range(shape[2])])
    actual = ordered_results(inputs, orders, reduction, "native")
    expected = ordered_results([m.double() for m in inputs], orders, reduction, "reference")
    assert [relative(*pair) for pair in zip(actual[:1], expected[:1], strict=True)] <= [FORWARD]
    assert max(relative(*pair) for pair in zip(actual[1:], expected[1:], strict=True)) <= GRADIENT


def test_orders_in_place_equal_copies_in_order(level):
    """Reading through a table gives the bits of a scan of the permuted copy."""
    x, delta, A, B, C, D, bias = ordered(2, 12, 4, 20, 3, shared=False)
    orders = cross_scan_orders(3, 4)
    merged = ordered_scan(x, delta, A, B, C, D, bias, orders, True, "none", backend="native")
    for k, order in enumerate(orders):
        u, dt, b, c = (m[:, order, k].transpose(1, 2).contiguous() for m in (x, delta, B, C))
        y = selective_scan(u, dt, A[k], b, c, D[k], delta_bias=bias[k], delta_softplus=True, backend="native")
        assert torch.equal(merged[:, order, k], y.transpose(1, 2))


@pytest.mark.parametrize("shape", [(1, 50, 4, 200, 4), (3, 40, 4, 96, 2)])
def test_bits_depend_on_neither_threads_nor_batch(level, shape):
    inputs = ordered(*shape, shared=True)
    orders = torch.stack([torch.randperm(shape[1]) for _ in range(shape[2])])
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            found.append(ordered_results(inputs, orders, "sum", "native"))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
    weights = [m[:1] if m.shape[0] == shape[0] and i in (0, 1, 3, 4) else m for i, m in enumerate(inputs)]
    alone = ordered_scan(*weights, orders, True, backend="native")
    assert torch.equal(alone, found[0][0][:1])


@pytest.mark.parametrize(
    ("orders", "message"),
    [
        (torch.tensor([[0, 1, 2, 2, 4]]), "permutation of 0..L-1"),
        (torch.tensor([[0, 1, 2, 3, 5]]), "permutation of 0..L-1"),
        (torch.tensor([[0, 1, 2, 3, -1]]), "permutation of 0..L-1"),
        (torch.arange(5), r"\(1, 5\), got shape \(5,\)"),
        (torch.arange(5, dtype=torch.int32)[None], "int64, got torch.int32"),
    ],
)
@pytest.mark.parametrize("backend", ["native", "torch"])
def test_orders_that_would_read_elsewhere_are_refused(backend, orders, message):
    with pytest.raises(ValueError, match=f"orders must .*{message}"):
        ordered_scan(*ordered(1, 5, 1, 4, 2, shared=True), orders, backend=backend)


def test_operator_is_one_that_torch_accepts():
    x, delta, A, B, C, D, bias = ordered(1, 40, 2, 8, 3, shared=True)
    u, delta, B, C = (m.permute(0, 2, 3, 1) for m in (x[:, :, None], delta, B, C))
    orders = torch.stack([torch.randperm(40) for _ in range(2)])
    arguments = [m.detach().requires_grad_() for m in (u, delta, A, B, C, D, bias)]
    operator = torch.ops.monai_mamba_gen.scan_native
    for reduction in ("sum", "none"):
        outcome = torch.library.opcheck(operator, (*arguments, orders, True, reduction, True))
        assert set(outcome.values()) == {"SUCCESS"}


def test_sizes_of_saved_states_are_those_of_the_compiled_part():
    module = importlib.import_module("monai_mamba_gen.ops._native")
    assert (native_scan.CHUNK, native_scan.GROUP) == (module.CHUNK, module.GROUP)


def test_environment_chooses_the_instruction_set(monkeypatch):
    monkeypatch.setenv(native_module.ISA_VARIABLE, "base")
    assert native_module.current_instruction_set() == "base"
    monkeypatch.setenv(native_module.ISA_VARIABLE, "avx9")
    with pytest.raises(ValueError, match="MONAI_MAMBA_GEN_ISA must be one of .*'base'.*, got 'avx9'"):
        selective_scan(**draw(1, 1, 1, 1, 1), backend="native")
    with pytest.raises(ValueError, match="instruction set must be one of"), instruction_set("avx9"):
        pass


def test_throughput_of_exponentials_is_a_number(level):
    assert 1e6 < native_module.exp_throughput(seconds=0.001, threads=1) < 1e12
