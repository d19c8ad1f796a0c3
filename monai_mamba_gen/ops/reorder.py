"""
Scan expansion and scan merge: K ordered copies of one sequence, and the sum of K ordered sequences.

Each is the other's adjoint, so each one's gradient is the other; no scattered additions are needed.
"""

from __future__ import annotations

import torch

from .scan_order import inverse_order

__all__ = ["scan_expand", "scan_merge", "scan_reorder"]


def _gather(sequences: torch.Tensor, orders: torch.Tensor) -> torch.Tensor:
    """out[t, :, k] = sequences[orders[k, t], :, k]; (L, N, K, C) -> (L, N, K, C)."""
    out = torch.empty_like(sequences, memory_format=torch.contiguous_format)
    for k, order in enumerate(orders):
        out[:, :, k] = sequences[:, :, k].index_select(0, order)
    return out


class _Reorder(torch.autograd.Function):
    @staticmethod
    def forward(ctx, sequences, orders):
        ctx.save_for_backward(orders)
        return _gather(sequences, orders)

    @staticmethod
    def backward(ctx, grad):
        (orders,) = ctx.saved_tensors
        return scan_reorder(grad, inverse_order(orders)), None


class _Expand(torch.autograd.Function):
    @staticmethod
    def forward(ctx, sequence, orders):
        ctx.save_for_backward(orders)
        return _gather(sequence.unsqueeze(2).expand(-1, -1, len(orders), -1), orders)

    @staticmethod
    def backward(ctx, grad):
        (orders,) = ctx.saved_tensors
        return scan_merge(grad, orders), None


class _Merge(torch.autograd.Function):
    @staticmethod
    def forward(ctx, sequences, orders):
        ctx.save_for_backward(orders)
        merged = None
        for k, inverse in enumerate(inverse_order(orders)):
            part = sequences[:, :, k].index_select(0, inverse)
            merged = part if merged is None else merged.add_(part)
        return merged

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
    return _Expand.apply(sequence, orders)


def scan_reorder(sequences: torch.Tensor, orders: torch.Tensor) -> torch.Tensor:
    """
    Read K sequences, each in its own order.

    Args:
        sequences: (L, N, K, C), cells in raster order.
        orders: (K, L).

    Returns:
        (L, N, K, C), contiguous; ``out[t, :, k] = sequences[orders[k, t], :, k]``.
    """
    return _Reorder.apply(sequences, orders)


def scan_merge(sequences: torch.Tensor, orders: torch.Tensor) -> torch.Tensor:
    """
    Put K ordered sequences back in raster order and add them.

    Args:
        sequences: (L, N, K, C), sequence k in the order ``orders[k]``.
        orders: (K, L).

    Returns:
        (L, N, C) in raster order.
    """
    return _Merge.apply(sequences, orders)
