"""The selective scan as its definition reads: one loop over time. Slow, and the truth for every other backend."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .scan_inputs import compute_dtype, group_last
from .scan_order import inverse_order

__all__ = ["scan_reference", "selective_scan_ref"]


def selective_scan_ref(
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
    Selective scan by a plain loop; arguments, shapes and result as `selective_scan`.

    Mamba (Gu & Dao 2023), equation 2 with the zero-order hold simplified for B as in the authors' code:
    ``h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t`` and ``y_t = C_t h_t + D u_t``.

    Example:
        >>> u, delta = torch.randn(2, 4, 9), torch.rand(2, 4, 9)
        >>> A, B, C = -torch.rand(4, 3), torch.randn(2, 3, 9), torch.randn(2, 3, 9)
        >>> selective_scan_ref(u, delta, A, B, C).shape
        torch.Size([2, 4, 9])
    """
    dtype = compute_dtype(u)
    x, dt, A = u.to(dtype), delta.to(dtype), A.to(dtype)
    if delta_bias is not None:
        dt = dt + delta_bias.to(dtype)[:, None]
    if delta_softplus:
        dt = F.softplus(dt)
    B, C = (group_last(m.to(dtype), u.shape[1]) for m in (B, C))  # (N, D, S, L) each, groups expanded
    h = x.new_zeros((u.shape[0], u.shape[1], A.shape[1]))  # (N, D, S)
    ys = []
    for t in range(u.shape[2]):
        h = torch.exp(dt[:, :, t, None] * A) * h + dt[:, :, t, None] * B[..., t] * x[:, :, t, None]
        ys.append((h * C[..., t]).sum(-1))
    y = torch.stack(ys, dim=2) if ys else torch.zeros_like(x)  # (N, D, L)
    if D is not None:
        y = y + D.to(dtype)[:, None] * x
    if z is not None:
        y = y * F.silu(z.to(dtype))
    y = y.to(u.dtype)
    return (y, h) if return_last_state else y


def scan_reference(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None,
    delta_bias: torch.Tensor | None,
    orders: torch.Tensor | None,
    delta_softplus: bool,
    reduction: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Scan K sets of sequences, each in its own order, by a plain loop; arguments and results as `scan_torch`.

    Autograd differentiates it as it stands.
    """
    dt = delta if delta_bias is None else delta + delta_bias[:, :, None]
    if delta_softplus:
        dt = F.softplus(dt)
    in_time = (u.expand_as(delta), dt, B, C)
    if orders is not None:
        in_time = (m.take_along_dim(orders[None, :, None], dim=3) for m in in_time)
    h = dt.new_zeros((*dt.shape[:3], A.shape[2]))  # (N, K, E, S)
    ys = []
    steps = zip(*(m.unbind(3) for m in in_time), strict=True) if dt.shape[3] else ()
    for x_t, dt_t, b, c in steps:  # (N, K, E) twice, (N, K, S) twice
        h = torch.exp(dt_t[..., None] * A) * h + (dt_t * x_t)[..., None] * b[:, :, None]
        ys.append((h * c[:, :, None]).sum(-1))
    y = torch.stack(ys, dim=3) if ys else torch.zeros_like(dt)  # (N, K, E, L)
    if orders is not None:
        y = y.take_along_dim(inverse_order(orders)[None, :, None], dim=3)
    if D is not None:
        y = y + D[:, :, None] * u
    if reduction != "none":
        y = y.sum(1, keepdim=True) / (y.shape[1] if reduction == "mean" else 1)
    return y, h
