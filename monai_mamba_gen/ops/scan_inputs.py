"""What every scan backend shares: the check of the arguments and the dtype of the arithmetic."""

from __future__ import annotations

import torch

__all__ = [
    "check_ordered_inputs",
    "check_orders",
    "check_scan_inputs",
    "compute_dtype",
    "group_last",
    "require_permutations",
]

_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def compute_dtype(u: torch.Tensor) -> torch.dtype:
    """Return the dtype of the recurrence: float64 for float64 inputs, float32 for every other."""
    return torch.float64 if u.dtype == torch.float64 else torch.float32


def group_last(matrix: torch.Tensor, channels: int) -> torch.Tensor:
    """Expand B or C, (N, S, L) or (N, G, S, L), to one matrix a channel, (N, D, S, L)."""
    if matrix.ndim == 3:
        matrix = matrix[:, None]
    return matrix.repeat_interleave(channels // matrix.shape[1], dim=1)


def _expect(name: str, tensor: torch.Tensor | None, allowed: str, ok: bool) -> None:
    if not ok:
        shape = None if tensor is None else tuple(tensor.shape)
        raise ValueError(f"{name} must be {allowed}, got shape {shape}")


def check_scan_inputs(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None,
    z: torch.Tensor | None,
    delta_bias: torch.Tensor | None,
) -> None:
    """
    Check shapes, dtypes and devices of a selective scan's arguments.

    Raises:
        ValueError: naming the first argument that does not fit, its value and what is allowed.
    """
    _expect("u", u, "(N, D, L)", u.ndim == 3)
    batch, channels, length = u.shape
    _expect("delta", delta, f"of u's shape {tuple(u.shape)}", delta.shape == u.shape)
    _expect("A", A, f"(D, S) with D = {channels}", A.ndim == 2 and A.shape[0] == channels)
    state = A.shape[1]
    for name, m in (("B", B), ("C", C)):
        allowed = f"(N, S, L) or (N, G, S, L) with N = {batch}, S = {state}, L = {length} and G a divisor of {channels}"
        fits = m.ndim in (3, 4) and m.shape[0] == batch and tuple(m.shape[-2:]) == (state, length)
        _expect(name, m, allowed, fits and (m.ndim == 3 or (m.shape[1] > 0 and channels % m.shape[1] == 0)))
    for name, v in (("D", D), ("delta_bias", delta_bias)):
        _expect(name, v, f"({channels},)", v is None or tuple(v.shape) == (channels,))
    _expect("z", z, f"of u's shape {tuple(u.shape)}", z is None or z.shape == u.shape)
    _check_kinds({"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": delta_bias})


def _check_kinds(given: dict[str, torch.Tensor | None]) -> None:
    """All real floating point, and on the device of the first."""
    first, reference = next(iter(given.items()))
    for name, tensor in given.items():
        if tensor is None:
            continue
        if tensor.dtype not in _FLOATS:
            raise ValueError(f"{name} must be real floating point, got {tensor.dtype}")
        if tensor.device != reference.device:
            raise ValueError(
                f"{name} is on {tensor.device}, but {first} is on {reference.device}; all must be on one device"
            )


def check_ordered_inputs(
    x: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None,
    delta_bias: torch.Tensor | None,
    reduction: str,
) -> None:
    """
    Check the arguments of `ordered_scan` but its orders.

    Raises:
        ValueError: naming the first argument that does not fit, its value and what is allowed.
    """
    if reduction not in ("sum", "mean", "none"):
        raise ValueError(f"reduction must be 'sum', 'mean' or 'none', got {reduction!r}")
    _expect("delta", delta, "(N, L, K, E)", delta.ndim == 4)
    batch, length, sets, channels = delta.shape
    shapes = (batch, length, channels), tuple(delta.shape)
    _expect("x", x, f"{shapes[0]} or {shapes[1]}, as delta's (N, L, K, E)", tuple(x.shape) in shapes)
    _expect("A", A, f"({sets}, {channels}, S)", A.ndim == 3 and tuple(A.shape[:2]) == (sets, channels))
    expected = (batch, length, sets, A.shape[2])
    for name, m in (("B", B), ("C", C)):
        _expect(name, m, f"{expected}", tuple(m.shape) == expected)
    for name, m in (("D", D), ("delta_bias", delta_bias)):
        _expect(name, m, f"({sets}, {channels})", m is None or tuple(m.shape) == (sets, channels))
    _check_kinds({"x": x, "delta": delta, "A": A, "B": B, "C": C, "D": D, "delta_bias": delta_bias})


def check_orders(orders: torch.Tensor, delta: torch.Tensor) -> None:
    """
    Check a table of orders against delta (N, L, K, E), by its shape, dtype and device.

    That each row is a permutation is checked where the rows are read: by the kernel in C at every call, and here for
    other tensors on the CPU. A GPU is not made to wait for such a check; its kernels leave cells out of range alone.

    Raises:
        ValueError: when the table does not fit.
    """
    expected = (delta.shape[2], delta.shape[1])
    _expect("orders", orders, f"(K, L) = {expected}", tuple(orders.shape) == expected)
    if orders.dtype != torch.int64:
        raise ValueError(f"orders must be int64, got {orders.dtype}")
    if orders.device != delta.device:
        raise ValueError(f"orders is on {orders.device}, but delta is on {delta.device}; all must be on one device")


def require_permutations(orders: torch.Tensor) -> None:
    """
    Check that each row of a table (K, L) is a permutation of 0..L-1.

    Raises:
        ValueError: when one is not.
    """
    if not torch.equal(orders.sort(dim=-1).values, torch.arange(orders.shape[-1]).expand_as(orders)):
        raise ValueError("orders must have a permutation of 0..L-1 in every row")
