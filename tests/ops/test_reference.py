"""The reference itself, against what can be worked out by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from monai_mamba_gen.ops import random_order, selective_scan, selective_scan_ref
from monai_mamba_gen.ops.reference import scan_reference


@pytest.mark.parametrize("function", [selective_scan_ref, selective_scan])
def test_is_the_sum_over_the_past(function, scan_inputs):
    """y_t = sum over s <= t of C_t exp(A (dt_{s+1} + ... + dt_t)) dt_s B_s u_s, written without any recurrence."""
    inputs = scan_inputs(9, groups=2)
    u, delta, A, B, C, D, z, bias = inputs.values()
    dt = F.softplus(delta + bias[:, None])
    time = dt.cumsum(-1)
    elapsed = time[:, :, :, None] - time[:, :, None, :]  # (N, D, t, s)
    decay = torch.exp(A[None, :, None, None] * elapsed[..., None])  # (N, D, t, s, S)
    B, C = (m.repeat_interleave(3, dim=1).movedim(2, 3) for m in (B, C))  # (N, D, L, S)
    kernel = torch.einsum("ndtk,ndtsk,ndsk->ndts", C, decay, B).tril()
    expected = (torch.einsum("ndts,nds->ndt", kernel, dt * u) + D[:, None] * u) * z * torch.sigmoid(z)
    torch.testing.assert_close(function(**inputs, delta_softplus=True), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("function", [selective_scan_ref, selective_scan])
def test_constant_step_is_a_geometric_series(function):
    length, step = 6, 0.3
    ones = torch.ones(1, 1, length, dtype=torch.float64)
    A = torch.tensor([[-2.0]], dtype=torch.float64)
    y, last = function(ones, step * ones, A, ones, ones, return_last_state=True)
    q = torch.exp(step * A).item()
    expected = torch.tensor([step * (1 - q**n) / (1 - q) for n in range(1, length + 1)], dtype=torch.float64)
    torch.testing.assert_close(y[0, 0], expected)
    torch.testing.assert_close(last[0, 0, 0], expected[-1])


def draw(shared: bool, batch: int = 2, sets: int = 3, channels: int = 4, length: int = 7, state: int = 5):
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "u": (batch, 1 if shared else sets, channels, length),
        "delta": (batch, sets, channels, length),
        "A": (sets, channels, state),
        "B": (batch, sets, state, length),
        "C": (batch, sets, state, length),
        "D": (sets, channels),
        "delta_bias": (sets, channels),
    }
    inputs = {name: torch.randn(s, generator=generator, dtype=torch.float64) for name, s in shapes.items()}
    inputs["A"] = -inputs["A"].abs()
    return inputs, torch.stack([random_order(length, generator) for _ in range(sets)])


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("shared", [False, True])
def test_canonical_form_follows_the_definition_cell_by_cell(shared, reduction):
    inputs, orders = draw(shared)
    u, delta, A, B, C, D, bias = inputs.values()
    batch, sets, channels, length = delta.shape
    expected, state = torch.zeros_like(delta), torch.zeros(batch, sets, channels, A.shape[2], dtype=torch.float64)
    for n in range(batch):
        for k in range(sets):
            h = torch.zeros_like(A[k])
            for cell in orders[k].tolist():
                x = u[n, 0 if shared else k, :, cell]
                dt = torch.log1p(torch.exp(delta[n, k, :, cell] + bias[k]))
                h = torch.exp(dt[:, None] * A[k]) * h + torch.outer(dt * x, B[n, k, :, cell])
                expected[n, k, :, cell] = h @ C[n, k, :, cell] + D[k] * x
            state[n, k] = h
    if reduction != "none":
        expected = expected.sum(1, keepdim=True) / (sets if reduction == "mean" else 1)
    y, last = scan_reference(*inputs.values(), orders, True, reduction)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(last, state)


@pytest.mark.parametrize("optional", [False, True])
def test_canonical_form_agrees_with_the_public_reference(optional):
    inputs, _ = draw(shared=False)
    if not optional:
        inputs |= {"D": None, "delta_bias": None}
    y, last = scan_reference(*inputs.values(), None, True, "none")
    flat = {
        name: m if m is None or name in "BC" else m.flatten(0 if m.ndim < 4 else 1, -2) for name, m in inputs.items()
    }
    flat |= {name: m if m is None else m.flatten() for name, m in inputs.items() if name in ("D", "delta_bias")}
    expected = selective_scan_ref(**flat, delta_softplus=True, return_last_state=True)
    torch.testing.assert_close((y.flatten(1, 2), last.flatten(1, 2)), expected)


def test_canonical_form_passes_gradcheck():
    inputs, orders = draw(True, 1, 2, 2, 3, 2)
    leaves = [m.requires_grad_() for m in inputs.values()]
    assert torch.autograd.gradcheck(lambda *inputs: scan_reference(*inputs, orders, True, "mean"), leaves)
