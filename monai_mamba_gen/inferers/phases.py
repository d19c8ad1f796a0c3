"""Where in a heart beat each frame of a cine stands: 0 end diastole, 1 end systole."""

from __future__ import annotations

import math

import torch

__all__ = ["PHASE_CURVES", "phase_curve"]

PHASE_CURVES = ("linear", "cosine", "beat")
_SYSTOLE = 0.38  # share of the cycle
_EARLY_FILLING = 0.8  # exponent below 1: the heart fills quickly at first


def phase_curve(name: str, num_frames: int) -> torch.Tensor:
    """
    Return the phases of the frames of a cine.

    Args:
        name: ``"linear"``: from ED to ES in equal steps; ``"cosine"``: from ED to ES, slow at both ends; ``"beat"``:
            from ED to ES and back in a smooth cycle, systole taking 0.38 of it, early filling quick. ES is a frame of
            the beat, and its last frame is one step before ED, so that it can be shown in a loop.
        num_frames: at least 2.

    Returns:
        (num_frames,) float32 in [0, 1]; the first is 0.

    Raises:
        ValueError: when an argument is outside what is allowed.

    Example:
        >>> phase_curve("linear", 3).tolist()
        [0.0, 0.5, 1.0]
    """
    if name not in PHASE_CURVES:
        raise ValueError(f"phase_curve must be one of {PHASE_CURVES}, got {name!r}")
    if isinstance(num_frames, bool) or not isinstance(num_frames, int) or num_frames < 2:
        raise ValueError(f"num_frames must be an integer of at least 2, got {num_frames!r}")
    if name == "linear":
        return torch.linspace(0, 1, num_frames)
    if name == "cosine":
        return (0.5 * (1 - torch.cos(math.pi * torch.linspace(0, 1, num_frames)))).clamp(0, 1)
    systole = min(max(round(_SYSTOLE * num_frames), 1), num_frames - 1) / num_frames
    time = torch.arange(num_frames, dtype=torch.float64) / num_frames
    filling = ((time - systole) / (1 - systole)).clamp(0, 1) ** _EARLY_FILLING
    falling = 0.5 * (1 - torch.cos(math.pi * (time / systole).clamp(max=1)))
    rising = 0.5 * (1 + torch.cos(math.pi * filling))
    return torch.where(time <= systole, falling, rising).float()
