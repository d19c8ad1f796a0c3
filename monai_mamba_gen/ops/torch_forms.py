"""
The PyTorch scan in operations that every tracer and every order of differentiation understands.

`scan_loop` runs step by step. It is written in the subset of Python that TorchScript compiles, where the loop stays a
loop. `scan_halving` has no loop: it joins neighbouring steps, scans the half as long rest, and so on, which gives a
graph of about ``6 log2(L)`` operations. Both hold all L states when they are differentiated.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F

from .scan_order import inverse_order

__all__ = ["compiled_scan_loop", "scan_halving", "scan_loop"]


def _in_time(m: torch.Tensor, orders: torch.Tensor | None) -> torch.Tensor:
    """(N, K, X, L) in cell order -> (L, N, K, X) in the order of time."""
    if orders is not None:
        m = m.gather(3, orders[None, :, None, :].expand_as(m))
    return m.permute(3, 0, 1, 2)


def _step_sizes(delta: torch.Tensor, delta_bias: torch.Tensor | None, delta_softplus: bool) -> torch.Tensor:
    if delta_bias is not None:
        delta = delta + delta_bias[None, :, :, None]
    return F.softplus(delta) if delta_softplus else delta


def _in_cells(
    y: torch.Tensor, u: torch.Tensor, D: torch.Tensor | None, orders: torch.Tensor | None, reduction: str
) -> torch.Tensor:
    """(L, N, K, E) in the order of time -> (N, K or 1, E, L) in cell order, with the skip D u."""
    y = y.permute(1, 2, 3, 0)
    if orders is not None:
        y = y.gather(3, inverse_order(orders)[None, :, None, :].expand_as(u.expand(-1, orders.shape[0], -1, -1)))
    if D is not None:
        y = y + D[None, :, :, None] * u
    if reduction == "sum":
        y = y.sum(1, keepdim=True)
    elif reduction == "mean":
        y = y.mean(1, keepdim=True)
    return y


def scan_loop(
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
    """Scan by a loop over time; arguments and results as `scan_torch`. Differentiable any number of times."""
    # Steps keep their dimension of time: ONNX takes a step without it for a whole sequence.
    x = _in_time(u.expand_as(delta), orders).split(1)
    dt = _in_time(_step_sizes(delta, delta_bias, delta_softplus), orders).split(1)
    Bt, Ct = _in_time(B, orders).split(1), _in_time(C, orders).split(1)
    h = (dt[0] * x[0]).unsqueeze(-1) * Bt[0].unsqueeze(-2)  # (1, N, K, E, S)
    steps = [torch.matmul(h, Ct[0].unsqueeze(-1)).squeeze(-1)]  # (1, N, K, E) each
    for t in range(1, len(x)):
        h = torch.exp(dt[t].unsqueeze(-1) * A) * h + (dt[t] * x[t]).unsqueeze(-1) * Bt[t].unsqueeze(-2)
        steps.append(torch.matmul(h, Ct[t].unsqueeze(-1)).squeeze(-1))
    return _in_cells(torch.cat(steps), u, D, orders, reduction), h.squeeze(0)


@functools.cache
def compiled_scan_loop() -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Return `scan_loop` as TorchScript: in a traced graph it is one loop, for every batch size and length."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(scan_loop)


def _halve(decay: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """States of ``h_t = decay_t h_{t-1} + step_t`` over dimension 0, h before the first step being zero."""
    length = step.shape[0]
    if length == 1:
        return step
    pairs = length // 2
    even_decay, even = decay[0::2], step[0::2]
    odd_decay, odd = decay[1::2], step[1::2]
    odd = _halve(odd_decay * even_decay[:pairs], odd_decay * even[:pairs] + odd)  # states after every second step
    rest = even_decay[1:] * odd[: even.shape[0] - 1] + even[1:]
    even = torch.cat([even[:1], rest])
    joined = torch.stack([even[:pairs], odd], dim=1).flatten(0, 1)
    return joined if length == 2 * pairs else torch.cat([joined, even[pairs:]])


def scan_halving(
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
    Scan in ``log2(L)`` halvings; arguments and results as `scan_torch`.

    No quotient is formed, but products of decays are. With A > 0 they may overflow where the loop does not.
    """
    x = _in_time(u.expand_as(delta), orders)
    dt = _in_time(_step_sizes(delta, delta_bias, delta_softplus), orders)
    Bt, Ct = _in_time(B, orders), _in_time(C, orders)
    states = _halve(torch.exp(dt.unsqueeze(-1) * A), (dt * x).unsqueeze(-1) * Bt.unsqueeze(-2))  # (L, N, K, E, S)
    y = torch.matmul(states, Ct.unsqueeze(-1)).squeeze(-1)
    return _in_cells(y, u, D, orders, reduction), states[-1]
