"""The selective scan of one sequence in several orders at once, without a copy for each."""

from __future__ import annotations

import torch

from .backends import run_scan
from .scan_inputs import check_ordered_inputs, check_orders, compute_dtype

__all__ = ["ordered_scan"]


def ordered_scan(
    x: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None = None,
    delta_bias: torch.Tensor | None = None,
    orders: torch.Tensor | None = None,
    delta_softplus: bool = False,
    reduction: str = "sum",
    *,
    backend: str | None = None,
) -> torch.Tensor:
    """
    Selective scan of the cells of a grid in K orders, merged in place.

    The recurrence is that of `selective_scan`. Every tensor is given once, in the order of the cells, channels last;
    the orders are index tables through which a kernel reads and writes. The K results are put back in the order of the
    cells and added or averaged: cross-scan and merge of VMamba (Liu et al. 2024), spirals, and Sequence Regeneration
    are tables here, and cost no copies.

    Args:
        x: cells, (N, L, E); or (N, L, K, E), an input for each order.
        delta: step sizes before bias and softplus, (N, L, K, E).
        A: state matrices, (K, E, S).
        B: input matrices, (N, L, K, S).
        C: output matrices, (N, L, K, S).
        D: skip weights, (K, E).
        delta_bias: added to delta, (K, E).
        orders: (K, L) int64, every row a permutation: scan k visits cell ``orders[k, t]`` at time t. Default 0..L-1.
        delta_softplus: whether delta passes through a softplus.
        reduction: ``"sum"`` or ``"mean"`` over the K results, or ``"none"``.
        backend: name of a backend, see `scan_backends`; default the fastest that takes the inputs.

    Returns:
        (N, L, E), or (N, L, K, E) for ``"none"``, in x's dtype, in the order of the cells.

    Raises:
        ValueError: naming the argument that does not fit, its value and what is allowed.

    Example:
        >>> from monai_mamba_gen.ops import cross_scan_orders
        >>> x, delta, A = torch.randn(2, 6, 8), torch.rand(2, 6, 4, 8), -torch.rand(4, 8, 3)
        >>> B, C = torch.randn(2, 6, 4, 3), torch.randn(2, 6, 4, 3)
        >>> ordered_scan(x, delta, A, B, C, orders=cross_scan_orders(2, 3)).shape
        torch.Size([2, 6, 8])
    """
    check_ordered_inputs(x, delta, A, B, C, D, delta_bias, reduction)
    if orders is not None:
        check_orders(orders, delta)
    dtype = compute_dtype(x)
    u = (x[:, :, None] if x.ndim == 3 else x).to(dtype).permute(0, 2, 3, 1)  # (N, 1 or K, E, L)
    delta, B, C = (m.to(dtype).permute(0, 2, 3, 1) for m in (delta, B, C))  # (N, K, E or S, L)
    A, D, delta_bias = (None if m is None else m.to(dtype) for m in (A, D, delta_bias))
    y, _ = run_scan(u, delta, A, B, C, D, delta_bias, orders, delta_softplus, reduction, backend)
    y = y.permute(0, 3, 1, 2).to(x.dtype)  # (N, L, 1 or K, E)
    return y if reduction == "none" else y[:, :, 0]
