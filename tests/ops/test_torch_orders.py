"""The canonical form of the PyTorch scan against the loop: orders, reductions, memory formats, transformations."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from monai_mamba_gen.ops.reference import scan_reference
from monai_mamba_gen.ops.torch_chunks import scan_forward
from monai_mamba_gen.ops.torch_forms import compiled_scan_loop, scan_halving, scan_loop
from monai_mamba_gen.ops.torch_operator import scan_operator
from monai_mamba_gen.ops.torch_scan import scan_torch

NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias")
FORMS = {
    "chunks": scan_torch,
    "loop": scan_loop,
    "loop over blocks": partial(scan_loop, block=4),
    "compiled loop": compiled_scan_loop(),
    "compiled loop over blocks": partial(compiled_scan_loop(), block=4),
    "halving": scan_halving,
}


def draw(
    batch: int = 2,
    sets: int = 3,
    channels: int = 4,
    length: int = 11,
    state: int = 5,
    shared: bool = False,
    channels_last: bool = False,
    dtype: torch.dtype = torch.float64,
) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    def sequence(sets: int, width: int) -> torch.Tensor:
        m = normal(batch, length, sets, width).permute(0, 2, 3, 1)
        return m if channels_last else m.contiguous()

    A = -4 * torch.rand(sets, channels, state, generator=generator, dtype=torch.float64).to(dtype)
    u, delta = sequence(1 if shared else sets, channels), sequence(sets, channels) / 2
    return [u, delta, A, sequence(sets, state), sequence(sets, state), normal(sets, channels), normal(sets, channels)]


def draw_orders(sets: int = 3, length: int = 11) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sets)
    return torch.stack([torch.randperm(length, generator=generator) for _ in range(sets)])


FOUR_STEPS = draw_orders(2, 4)


def outcome(function, inputs: list[torch.Tensor], *rest) -> dict[str, torch.Tensor]:
    """y, last state, and gradients of a generic function of both; inputs keep their strides."""
    leaves = [None if m is None else m.detach().requires_grad_() for m in inputs]
    y, last = function(*leaves, *rest)
    weight = torch.cos(torch.arange(y.numel(), dtype=y.dtype)).view(y.shape)
    given = [leaf for leaf in leaves if leaf is not None]
    grads = iter(torch.autograd.grad((y * weight).sum() + last.square().sum(), given, materialize_grads=True))
    return {"y": y.detach(), "last": last.detach()} | {
        name: next(grads) for name, leaf in zip(NAMES, leaves, strict=True) if leaf is not None
    }


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("shared", [False, True], ids=["K inputs", "one input"])
@pytest.mark.parametrize("ordered", [False, True], ids=["raster", "ordered"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_equals_the_reference(form, ordered, shared, reduction, assert_same):
    for sets, length in ((3, 11), (1, 8), (2, 1)):
        inputs = draw(sets=sets, length=length, shared=shared)
        rest = (draw_orders(sets, length) if ordered else None, True, reduction)
        assert_same(outcome(FORMS[form], inputs, *rest), outcome(scan_reference, inputs, *rest), 1e-10, 1e-10)


@pytest.mark.parametrize("leave_out", [(5,), (6,), (5, 6)], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_without_optional_arguments(form, leave_out, assert_same):
    inputs = [None if i in leave_out else m for i, m in enumerate(draw())]
    inputs[1] = inputs[1].abs()
    rest = (draw_orders(), False, "none")
    assert_same(outcome(FORMS[form], inputs, *rest), outcome(scan_reference, inputs, *rest), 1e-10, 1e-10)


@pytest.mark.parametrize("orders", [None, draw_orders()], ids=["raster", "ordered"])
@pytest.mark.parametrize("shared", [False, True], ids=["K inputs", "one input"])
def test_memory_formats(orders, shared, assert_same):
    inputs = draw(shared=shared)
    expected = outcome(scan_reference, inputs, orders, True, "sum")
    table = torch.randn(2, 11, 3, 2 + 5 + 5, dtype=torch.float64)  # B and C as slices of one projection
    table[..., 2:7], table[..., 7:] = inputs[3].permute(0, 3, 1, 2), inputs[4].permute(0, 3, 1, 2)
    last = draw(shared=shared, channels_last=True)
    sliced = [*last[:3], *table.permute(0, 2, 3, 1).split([2, 5, 5], dim=2)[1:], *last[5:]]
    by_sets = [*last[:1], last[1].permute(1, 0, 3, 2).contiguous().permute(1, 0, 3, 2), *last[2:]]  # (K, N, L, E)
    for variant in (inputs, last, sliced, by_sets):
        assert_same(outcome(scan_torch, variant, orders, True, "sum"), expected, 1e-10, 1e-10)
        y = scan_torch(*variant, orders, True, "none")[0]
        assert y.stride(2 if variant[0].stride(2) == 1 else 3) == 1


def test_expanded_inputs(assert_same):
    inputs = draw()
    inputs[0] = inputs[0][..., :1].expand_as(inputs[0])
    inputs[3] = inputs[3][:1, :1].expand_as(inputs[3])
    inputs[5] = inputs[5][:, :1].expand_as(inputs[5])
    rest = (draw_orders(), True, "mean")
    assert_same(outcome(scan_torch, inputs, *rest), outcome(scan_reference, inputs, *rest), 1e-10, 1e-10)


def test_large_sizes_take_the_blocked_transposition(assert_same):
    inputs, rest = draw(channels=96, length=130), (None, True, "none")
    actual = outcome(scan_torch, inputs, *rest)
    assert_same(actual, outcome(scan_reference, inputs, *rest), 1e-10, 1e-9)
    assert all(actual[name].stride(3) == 1 for name in ("y", "u", "delta", "B", "C"))


@pytest.mark.parametrize("orders", [None, draw_orders(2, 3)], ids=["raster", "ordered"])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_first_and_second_derivatives(orders, reduction):
    inputs = [m.requires_grad_() for m in draw(1, 2, 2, 3, 2, shared=reduction == "mean")]
    assert torch.autograd.gradcheck(lambda *inputs: scan_torch(*inputs, orders, True, reduction), inputs)
    assert torch.autograd.gradgradcheck(lambda *inputs: scan_torch(*inputs, orders, True, reduction), inputs)


def test_second_derivatives_without_optional_arguments():
    inputs = [m.requires_grad_() for m in draw(1, 1, 2, 3, 2)[:5]]
    assert torch.autograd.gradgradcheck(lambda *inputs: scan_torch(*inputs, None, None, None, True, "none"), inputs)


def loss_of(function, inputs: list[torch.Tensor], u: torch.Tensor, A: torch.Tensor) -> torch.Tensor:
    y, last = function(u, inputs[1], A, *inputs[3:], FOUR_STEPS, True, "sum")
    return y.square().sum() + last.pow(3).sum()


def test_functional_transformations():
    inputs = draw(1, 2, 2, 4, 2, shared=True)
    u, A = inputs[0], inputs[2]
    ours, truth = partial(loss_of, scan_torch, inputs), partial(loss_of, scan_reference, inputs)
    same = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)
    same(torch.func.grad(ours, (0, 1))(u, A), torch.func.grad(truth, (0, 1))(u, A))
    same(torch.func.vjp(ours, u, A)[1](torch.ones_like(u.sum())), torch.func.grad(truth, (0, 1))(u, A))
    same(torch.func.jacrev(torch.func.grad(ours, 1), 0)(u, A), torch.func.jacrev(torch.func.grad(truth, 1), 0)(u, A))
    us, As = torch.stack([u, 2 * u, -u], dim=1), torch.stack([A, A / 2, 2 * A])
    expected = torch.stack([torch.func.grad(truth)(us[:, i], As[i]) for i in range(3)])
    same(torch.func.vmap(torch.func.grad(ours), in_dims=(1, 0))(us, As), expected)


def test_functional_call_of_a_module():
    class Scan(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.A = torch.nn.Parameter(draw()[2])

        def forward(self, inputs: list[torch.Tensor]) -> torch.Tensor:
            return scan_torch(*inputs[:2], self.A, *inputs[3:], None, True, "none")[0]

    module, inputs = Scan(), draw()
    doubled = torch.func.functional_call(module, {"A": 2 * module.A}, (inputs,))
    torch.testing.assert_close(doubled, scan_reference(*inputs[:2], 2 * inputs[2], *inputs[3:], None, True, "none")[0])


def test_forward_mode_is_refused_clearly():
    inputs = draw()
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jvp(lambda u: scan_torch(u, *inputs[1:], None, True, "none")[0], (inputs[0],), (inputs[0],))


def test_single_precision_inside_autocast(assert_same):
    """Autocast may be on when backward() is called; its products would round to bfloat16."""
    inputs, rest = draw(dtype=torch.float32, channels_last=True), (draw_orders(), True, "sum")
    expected = outcome(scan_torch, inputs, *rest)
    leaves = [m.detach().requires_grad_() for m in inputs]
    y, last = scan_torch(*leaves, *rest)
    loss = (y * torch.cos(torch.arange(y.numel(), dtype=y.dtype)).view(y.shape)).sum() + last.square().sum()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        grads = torch.autograd.grad(loss, leaves)
    assert_same(dict(zip(NAMES, grads, strict=True)), {name: expected[name] for name in NAMES}, 0, 0)


def test_scan_longer_than_a_chunk_is_exact_in_single():
    """Against double, over a shape of two chunks: 1e-6 of the largest value, 5e-6 of the largest gradient."""
    inputs, rest = draw(1, 2, 64, 300, 16, dtype=torch.float32), (draw_orders(2, 300), True, "sum")
    assert scan_forward(*inputs, *rest)[2].shape[0] == 3
    actual = outcome(scan_torch, inputs, *rest)
    expected = outcome(scan_reference, [m.double() for m in inputs], *rest)
    for name, value in expected.items():
        error = (actual[name] - value).abs().max() / value.abs().max()
        assert error < (1e-6 if name in ("y", "last") else 5e-6), name


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("optional", [False, True])
def test_operator_is_well_registered(channels_last, optional):
    inputs = draw(1, 2, 3, 4, 2, shared=optional, channels_last=channels_last, dtype=torch.float32)
    inputs = [m.requires_grad_() for m in inputs[: 7 if optional else 5]] + [None] * (0 if optional else 2)
    orders, reduction = (draw_orders(2, 4), "mean") if optional else (None, "none")
    torch.library.opcheck(scan_operator, (*inputs, orders, True, reduction))
