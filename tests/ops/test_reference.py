"""The reference itself, against what can be worked out by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from monai_mamba_gen.ops import selective_scan, selective_scan_ref


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
