"""The selective scan with the arguments of mamba-ssm."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from .backends import run_scan
from .scan_inputs import check_scan_inputs, compute_dtype

__all__ = ["selective_scan"]


def _sets(B: torch.Tensor, C: torch.Tensor) -> int:
    """Number of groups of channels that share both B and C."""
    return math.lcm(*(m.shape[1] if m.ndim == 4 else 1 for m in (B, C)))


def _per_set(m: torch.Tensor, sets: int, dtype: torch.dtype) -> torch.Tensor:
    """(N, S, L) or (N, G, S, L) -> (N, K, S, L)."""
    m = (m[:, None] if m.ndim == 3 else m).to(dtype)
    return m if m.shape[1] == sets else m.repeat_interleave(sets // m.shape[1], dim=1)


def selective_scan(
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
    *,
    backend: str | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """
    Selective state-space scan (S6) over the last dimension.

    Mamba (Gu & Dao 2023), equation 2: ``h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t``, ``y_t = C_t h_t + D u_t``, gated by
    ``silu(z)`` where z is given. Same arguments and meaning as ``selective_scan_fn`` of mamba-ssm. The arithmetic is
    float32 (float64 for float64 inputs) whatever the inputs' dtype, inside autocast too.

    Args:
        u: input, (N, D, L).
        delta: step sizes before bias and softplus, (N, D, L).
        A: state matrix, (D, S), real, negative for a decaying state.
        B: input matrix, (N, S, L), or (N, G, S, L) for G groups of D / G channels.
        C: output matrix, as B.
        D: skip weights, (D,).
        z: gate, (N, D, L).
        delta_bias: added to delta, (D,).
        delta_softplus: whether delta passes through a softplus.
        return_last_state: whether to return the state after the last step too.
        backend: name of a backend, see `scan_backends`; default the fastest that takes the inputs.

    Returns:
        y (N, D, L) in u's dtype; with ``return_last_state`` also the state (N, D, S).

    Raises:
        ValueError: when shapes, dtypes or devices do not fit, or the named backend cannot be used (and why).

    Example:
        >>> u, delta = torch.randn(2, 4, 9), torch.rand(2, 4, 9)
        >>> A, B, C = -torch.rand(4, 3), torch.randn(2, 3, 9), torch.randn(2, 3, 9)
        >>> selective_scan(u, delta, A, B, C, delta_softplus=True).shape
        torch.Size([2, 4, 9])
    """
    check_scan_inputs(u, delta, A, B, C, D, z, delta_bias)
    dtype, sets = compute_dtype(u), _sets(B, C)
    x, dt = (m.to(dtype).unflatten(1, (sets, -1)) for m in (u, delta))  # (N, K, E, L)
    A, D, delta_bias = (None if m is None else m.to(dtype).unflatten(0, (sets, -1)) for m in (A, D, delta_bias))
    B, C = (_per_set(m, sets, dtype) for m in (B, C))
    y, last = run_scan(x, dt, A, B, C, D, delta_bias, None, delta_softplus, "none", backend)
    y = y.flatten(1, 2)  # (N, D, L)
    if z is not None:
        y = y * F.silu(z.to(dtype))
    y = y.to(u.dtype)
    return (y, last.flatten(1, 2)) if return_last_state else y
