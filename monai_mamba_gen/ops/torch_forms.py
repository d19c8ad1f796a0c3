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


def _rearranged(m: torch.Tensor, orders: torch.Tensor) -> torch.Tensor:
    """Row ``orders[k, t]`` of set k goes to row t: (L, N, K, X) -> (L, N, K, X)."""
    sets, length = orders.shape
    # One index a row: `gather` needs one a value, of which onnxruntime makes constants. The batch stays -1 and no shape
    # is unpacked: in ONNX the first would become a constant, and unpacking is wrong where the rank is not known.
    places = orders * sets + torch.arange(sets, device=orders.device)[:, None]
    rows = m.permute(0, 2, 1, 3).reshape(length * sets, -1, m.shape[3])
    rows = rows.index_select(0, places.t().reshape(-1))
    return rows.reshape(length, sets, -1, m.shape[3]).permute(0, 2, 1, 3)


def _in_time(m: torch.Tensor, orders: torch.Tensor | None) -> torch.Tensor:
    """(N, K, X, L) in cell order -> (L, N, K, X) in the order of time."""
    m = m.permute(3, 0, 1, 2)
    return m if orders is None else _rearranged(m, orders)


def _step_sizes(delta: torch.Tensor, delta_bias: torch.Tensor | None, delta_softplus: bool) -> torch.Tensor:
    if delta_bias is not None:
        delta = delta + delta_bias[None, :, :, None]
    return F.softplus(delta) if delta_softplus else delta


def _in_cells(
    y: torch.Tensor, u: torch.Tensor, D: torch.Tensor | None, orders: torch.Tensor | None, reduction: str
) -> torch.Tensor:
    """(L, N, K, E) in the order of time -> (N, K or 1, E, L) in cell order, with the skip D u."""
    if orders is not None:
        y = _rearranged(y, inverse_order(orders))
    y = y.permute(1, 2, 3, 0)
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
    block: int = 128,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scan by a loop over time; arguments and results as `scan_torch`. Differentiable any number of times."""
    # A loop over blocks and one over the steps of a block: onnxruntime copies a list whenever something is appended.
    # Steps keep their dimension of time: ONNX takes a step without it for a whole sequence.
    x = _in_time(u.expand_as(delta), orders).split(block)
    dt = _in_time(_step_sizes(delta, delta_bias, delta_softplus), orders).split(block)
    Bt, Ct = _in_time(B, orders).split(block), _in_time(C, orders).split(block)
    h = torch.zeros_like((dt[0][:1] * x[0][:1]).unsqueeze(-1) * Bt[0][:1].unsqueeze(-2))  # (1, N, K, E, S)
    blocks: list[torch.Tensor] = []  # (block, N, K, E) each
    for b in range(len(x)):
        x_b, dt_b, B_b, C_b = x[b].split(1), dt[b].split(1), Bt[b].split(1), Ct[b].split(1)
        steps: list[torch.Tensor] = []  # (1, N, K, E) each
        for t in range(len(x_b)):
            h = torch.exp(dt_b[t].unsqueeze(-1) * A) * h + (dt_b[t] * x_b[t]).unsqueeze(-1) * B_b[t].unsqueeze(-2)
            steps.append(torch.matmul(h, C_b[t].unsqueeze(-1)).squeeze(-1))
        blocks.append(torch.cat(steps))
    return _in_cells(torch.cat(blocks), u, D, orders, reduction), h.squeeze(0)


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
