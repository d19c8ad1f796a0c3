"""
The selective scan in PyTorch alone, for every device and dtype.

Time is cut into chunks. In a chunk the decay ``exp(dt A)`` and the input ``dt B u`` of all steps are computed at once,
then the recurrence runs step by step, which is exact for any ``dt``: nothing is divided and no product of decays is
formed. Only the state at the start of each chunk is kept; the backward pass recomputes the rest.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from .scan_inputs import compute_dtype

__all__ = ["selective_scan_torch"]

# Elements of the (T, N, D, S) work arrays of one chunk. Measured on two cores: 2**19 to 2**22 are within 10 %.
_CHUNK_ELEMENTS = 2**20


def _chunk_length(elements_per_step: int, length: int) -> int:
    return max(1, min(length, _CHUNK_ELEMENTS // max(1, elements_per_step)))


def _chunk_states(
    u: torch.Tensor, dt: torch.Tensor, A: torch.Tensor, B: torch.Tensor, h: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Run the recurrence over one chunk.

    Args:
        u, dt: (T, N, G, E), the D channels as G groups of E.
        A: (G, E, S).
        B: (T, N, G, S).
        h: state before the chunk, (N, G, E, S).

    Returns:
        decay and states of all steps, (T, N, G, E, S) each.
    """
    decay = (dt.unsqueeze(-1) * A).exp_()
    states = (dt * u).unsqueeze(-1) * B.unsqueeze(-2)
    for a, state in zip(decay.unbind(0), states.unbind(0), strict=True):
        h = state.addcmul_(a, h)
    return decay, states


class _ChunkedScan(torch.autograd.Function):
    """y (L, N, G, E) and the last state of time-major inputs; saves inputs and the state at each chunk's start."""

    @staticmethod
    def forward(ctx, u, dt, A, B, C):
        length = u.shape[0]
        h = u.new_zeros(*u.shape[1:], A.shape[-1])
        step = _chunk_length(h.numel(), length)
        y, starts = torch.empty_like(u), []
        for low in range(0, length, step):
            part = slice(low, low + step)
            starts.append(h)
            _, states = _chunk_states(u[part], dt[part], A, B[part], h)
            y[part] = torch.matmul(states, C[part].unsqueeze(-1)).squeeze(-1)
            h = states[-1].clone()
        ctx.save_for_backward(u, dt, A, B, C, *starts)
        ctx.step = step
        return y, h

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y, grad_last):
        with torch.autocast(grad_y.device.type, enabled=False):  # backward() may be called inside an autocast region
            return _scan_backward(ctx.saved_tensors, ctx.step, grad_y, grad_last)


def _scan_backward(
    saved: tuple[torch.Tensor, ...], step: int, grad_y: torch.Tensor, grad_last: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Gradients of u, dt, A, B and C; ``saved`` and ``step`` as `_ChunkedScan` keeps them."""
    u, dt, A, B, C, *starts = saved
    grad_u, grad_dt, grad_B, grad_C = (torch.empty_like(m) for m in (u, dt, B, C))
    grad_A = torch.zeros_like(A)
    carry = grad_last.clone()  # gradient of the state after the chunk at hand
    for index in reversed(range(len(starts))):
        part = slice(index * step, (index + 1) * step)
        up, dtp, Bp, Cp, gy = u[part], dt[part], B[part], C[part], grad_y[part]
        decay, states = _chunk_states(up, dtp, A, Bp, starts[index])
        grad_C[part] = torch.matmul(gy.unsqueeze(-2), states).squeeze(-2)
        grad_h = gy.unsqueeze(-1) * Cp.unsqueeze(-2)  # then, in place, the gradient of every state
        following = None
        for a, g in zip(reversed(decay.unbind(0)), reversed(grad_h.unbind(0)), strict=True):
            g.add_(carry) if following is None else g.addcmul_(following[0], following[1])
            following = (a, g)
        carry = following[0] * following[1]
        grad_x = torch.matmul(grad_h, Bp.unsqueeze(-1)).squeeze(-1)  # gradient of dt * u
        grad_B[part] = torch.matmul((dtp * up).unsqueeze(-2), grad_h).squeeze(-2)
        # d decay_t / d (dt A) = decay_t, and decay_t multiplies the state before t.
        grad_h[0].mul_(starts[index])
        grad_h[1:].mul_(states[:-1])
        grad_h.mul_(decay)
        grad_A += (grad_h * dtp.unsqueeze(-1)).sum(dim=(0, 1))
        grad_dt[part] = (grad_h * A).sum(-1) + grad_x * up
        grad_u[part] = grad_x * dtp
    return grad_u, grad_dt, grad_A, grad_B, grad_C


def _time_major(m: torch.Tensor, dtype: torch.dtype, *sizes: int) -> torch.Tensor:
    """(N, D, L) -> (L, N, *sizes), contiguous; a copy only where the memory is not laid out so already."""
    return m.movedim(-1, 0).to(dtype).contiguous().view(m.shape[-1], m.shape[0], *sizes)


def selective_scan_torch(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None = None,
    z: torch.Tensor | None = None,
    delta_bias: torch.Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """
    Selective scan in pure PyTorch; arguments, shapes and result as `selective_scan`.

    Costs ``O(L)`` time and keeps ``O(L)`` inputs plus one state a chunk for the backward pass. Differentiable once.

    Example:
        >>> u, delta = torch.randn(2, 4, 9), torch.rand(2, 4, 9)
        >>> A, B, C = -torch.rand(4, 3), torch.randn(2, 3, 9), torch.randn(2, 3, 9)
        >>> selective_scan_torch(u, delta, A, B, C).shape
        torch.Size([2, 4, 9])
    """
    dtype, (batch, channels, length) = compute_dtype(u), u.shape
    groups, state = (B.shape[1] if B.ndim == 4 else 1), A.shape[1]
    if C.ndim == 4 and C.shape[1] != groups:
        groups = channels
    per_group = channels // groups
    x = _time_major(u, dtype, groups, per_group)
    dt = _time_major(delta, dtype, groups, per_group)
    if delta_bias is not None:
        dt = dt + delta_bias.to(dtype).view(groups, per_group)
    if delta_softplus:
        dt = F.softplus(dt)
    if length == 0:
        y, last = x.clone(), x.new_zeros(batch, groups, per_group, state)
    else:
        Bt, Ct = (_grouped_time_major(m, dtype, groups) for m in (B, C))
        y, last = _ChunkedScan.apply(x, dt, A.to(dtype).view(groups, per_group, state), Bt, Ct)
    if D is not None:
        y = y + D.to(dtype).view(groups, per_group) * x
    if z is not None:
        y = y * F.silu(_time_major(z, dtype, groups, per_group))
    y = y.view(length, batch, channels).movedim(0, -1).to(u.dtype)
    return (y, last.view(batch, channels, state)) if return_last_state else y


def _grouped_time_major(m: torch.Tensor, dtype: torch.dtype, groups: int) -> torch.Tensor:
    """(N, S, L) or (N, g, S, L) -> (L, N, groups, S), contiguous."""
    m = m[:, None] if m.ndim == 3 else m
    if m.shape[1] != groups:
        m = m.repeat_interleave(groups // m.shape[1], dim=1)
    return _time_major(m, dtype, groups, m.shape[2])
