"""Phases of the heart beat as tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["expand_phases"]


def expand_phases(phases: torch.Tensor | Sequence[float] | float, like: torch.Tensor) -> torch.Tensor:
    """
    Return phases as (N, P) on the device of a batch of volumes, float32 (float64 for float64 volumes).

    Args:
        phases: a number, (P,) for all samples, or (N, P); 0 is end diastole, 1 end systole.
        like: (N, ...).

    Raises:
        ValueError: when there is no phase, or the shape is another.

    Example:
        >>> expand_phases([0.0, 0.5, 1.0], torch.zeros(2, 1, 4, 4, 4)).shape
        torch.Size([2, 3])
    """
    batch = like.shape[0]
    values = torch.as_tensor(phases, device=like.device)
    values = values.to(torch.float64 if like.dtype == torch.float64 else torch.float32)
    if values.ndim == 0:
        values = values[None]
    if values.ndim == 1:
        values = values[None].expand(batch, -1)
    if values.ndim != 2 or values.shape[0] != batch or values.shape[1] < 1:
        raise ValueError(f"phases must be (P,) or ({batch}, P) with at least one phase, got {tuple(values.shape)}")
    return values
