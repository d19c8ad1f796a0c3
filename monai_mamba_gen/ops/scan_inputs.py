"""What every scan backend shares: the check of the arguments and the dtype of the arithmetic."""

from __future__ import annotations

import torch

__all__ = ["check_scan_inputs", "compute_dtype", "group_last"]

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
    given = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": delta_bias}
    for name, tensor in given.items():
        if tensor is None:
            continue
        if tensor.dtype not in _FLOATS:
            raise ValueError(f"{name} must be real floating point, got {tensor.dtype}")
        if tensor.device != u.device:
            raise ValueError(f"{name} is on {tensor.device}, but u is on {u.device}; all must be on one device")
