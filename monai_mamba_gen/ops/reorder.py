"""
Scan expansion and scan merge: K ordered copies of one sequence, and the sum of K ordered sequences.

Each is the other's adjoint, so each one's gradient is the other; no scattered additions are needed. While a model is
traced, exported or compiled, autograd differentiates them by itself: the functions with gradients of their own would
not be saved.
"""

from __future__ import annotations

import torch

from .scan_order import inverse_order

__all__ = ["scan_expand", "scan_merge", "scan_reorder"]


def _in_a_graph() -> bool:
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


def _gather(sequences: torch.Tensor, orders: torch.Tensor) -> torch.Tensor:
    """out[t, :, k] = sequences[orders[k, t], :, k or 0]; (L, N, K or 1, C) -> (L, N, K, C)."""
    sets, batch, channels = orders.shape[0], sequences.shape[1], sequences.shape[3]
    if _in_a_graph():
        parts = sequences.expand(-1, -1, sets, -1).unbind(2)
        return torch.stack([part.index_select(0, order) for part, order in zip(parts, orders.unbind(0))], dim=2)
    out = sequences.new_empty((orders.shape[1], batch, sets, channels))
    for k, order in enumerate(orders):
        out[:, :, k] = sequences[:, :, k if sequences.shape[2] > 1 else 0].index_select(0, order)
    return out


def _merge(sequences: torch.Tensor, orders: torch.Tensor) -> torch.Tensor:
    """Sum over k of sequences[:, :, k] put back in raster order; (L, N, K, C) -> (L, N, C)."""
    parts = [part.index_select(0, o) for part, o in zip(sequences.unbind(2), inverse_order(orders).unbind(0))]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged + part
    return merged


class _Reorder(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(sequences, orders):
        return _gather(sequences, orders)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx, grad):
        (orders,) = ctx.saved_tensors
        return scan_reorder(grad, inverse_order(orders)), None


class _Expand(_Reorder):
    @staticmethod
    def forward(sequence, orders):
        return _gather(sequence.unsqueeze(2), orders)

    @staticmethod
    def backward(ctx, grad):
        (orders,) = ctx.saved_tensors
        return scan_merge(grad, orders), None


class _Merge(_Reorder):
    @staticmethod
    def forward(sequences, orders):
        return _merge(sequences, orders)

    @staticmethod
    def backward(ctx, grad):
        (orders,) = ctx.saved_tensors
        return scan_expand(grad, orders), None


def scan_expand(sequence: torch.Tensor, orders: torch.Tensor) -> torch.Tensor:
    """
    Read one sequence in K orders.

    Args:
        sequence: (L, N, C), cells in raster order.
        orders: (K, L), see `scan_order`.

    Returns:
        (L, N, K, C), contiguous; ``out[t, :, k] = sequence[orders[k, t]]``.
    """
    return _gather(sequence.unsqueeze(2), orders) if _in_a_graph() else _Expand.apply(sequence, orders)


def scan_reorder(sequences: torch.Tensor, orders: torch.Tensor) -> torch.Tensor:
    """
    Read K sequences, each in its own order.

    Args:
        sequences: (L, N, K, C), cells in raster order.
        orders: (K, L).

    Returns:
        (L, N, K, C), contiguous; ``out[t, :, k] = sequences[orders[k, t], :, k]``.
    """
    return _gather(sequences, orders) if _in_a_graph() else _Reorder.apply(sequences, orders)


def scan_merge(sequences: torch.Tensor, orders: torch.Tensor) -> torch.Tensor:
    """
    Put K ordered sequences back in raster order and add them.

    Args:
        sequences: (L, N, K, C), sequence k in the order ``orders[k]``.
        orders: (K, L).

    Returns:
        (L, N, C) in raster order.
    """
    return _merge(sequences, orders) if _in_a_graph() else _Merge.apply(sequences, orders)
