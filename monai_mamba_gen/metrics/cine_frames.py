"""How near the generated frames of a cine are to its true ones, and how smoothly they follow each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from monai.metrics import PSNRMetric, SSIMMetric

__all__ = ["beat_difference", "frame_scores", "ssim_window", "temporal_smoothness"]

_LARGEST_WINDOW = 7


def ssim_window(shape: Sequence[int]) -> tuple[int, ...]:
    """
    Return the window of `frame_scores` for frames of a shape: 7 voxels an axis, or the largest odd number that fits.

    Example:
        >>> ssim_window((128, 128, 6))
        (7, 7, 5)
    """
    return tuple(min(_LARGEST_WINDOW, size - 1 + size % 2) for size in shape)


def frame_scores(pred: torch.Tensor, true: torch.Tensor, data_range: float = 2.0) -> dict[str, list[float | None]]:
    """
    Compare each generated frame with its true one.

    PSNR is that of the whole 3D frame. NMSE is the sum of (pred - true)^2 over the sum of true^2, after both were
    mapped to [0, 1]; without the mapping it would depend on where zero lies. SSIM is MONAI's in 3D: a Gaussian window
    (sigma 1.5 voxels) of 7 voxels an axis, fewer where there are fewer slices (see `ssim_window`), averaged over the
    places where the window lies inside the frame.

    Args:
        pred: (T, H, W, D) generated frames in [-data_range / 2, data_range / 2].
        true: (T, H, W, D) true frames in the same range.
        data_range: largest minus smallest value a frame may have.

    Returns:
        ``{"psnr": [...], "nmse": [...], "ssim": [...]}``, T numbers each. PSNR (in dB) is infinite for identical
        frames; NMSE is None where the true frame has only the smallest value.

    Raises:
        ValueError: when the shapes differ or are others, or data_range is not above 0.

    Example:
        >>> frame_scores(torch.zeros(1, 8, 8, 4), torch.ones(1, 8, 8, 4))["nmse"]
        [0.25]
    """
    if pred.ndim != 4 or pred.shape != true.shape:
        raise ValueError(f"pred and true must both be (T, H, W, D), got {tuple(pred.shape)} and {tuple(true.shape)}")
    if not data_range > 0:
        raise ValueError(f"data_range must be above 0, got {data_range}")
    if len(pred) == 0:
        return {"psnr": [], "nmse": [], "ssim": []}
    # One channel a frame; [0, 1], so that NMSE is as defined and the other two see a range of 1.
    pred, true = ((frames.detach().double() / data_range + 0.5).unsqueeze(1) for frames in (pred, true))
    psnr = PSNRMetric(max_val=1.0, reduction="none")(pred, true)
    ssim = SSIMMetric(3, data_range=1.0, win_size=ssim_window(pred.shape[2:]), reduction="none")(pred, true)
    error, energy = ((frames**2).flatten(1).sum(1).tolist() for frames in (pred - true, true))
    nmse = [None if below == 0 else above / below for above, below in zip(error, energy, strict=True)]
    return {"psnr": psnr.flatten().tolist(), "nmse": nmse, "ssim": ssim.flatten().tolist()}


def temporal_smoothness(frames: torch.Tensor) -> float | None:
    """
    Return how jerky a series is: mean |second difference in time| over mean |first difference in time|.

    Both means run over all voxels and all times at which the difference exists, with f(t+1) - 2 f(t) + f(t-1) and
    f(t+1) - f(t). 0 is a change at constant rate, such as linear blending; about 2 is a series that jumps to and fro.
    The number depends on the count of frames, so compare series of one length, and best with that of the true frames.

    Args:
        frames: (T, ...) frames at equal steps in time.

    Returns:
        The ratio, at least 0, or None for fewer than 3 frames or where nothing changes.

    Example:
        >>> temporal_smoothness(torch.tensor([0.0, 1.0, 2.0, 4.0]))
        0.375
    """
    if len(frames) < 3:
        return None
    first = frames.detach().double().diff(dim=0)
    change = float(first.abs().mean())
    return float(first.diff(dim=0).abs().mean()) / change if change > 0 else None


def beat_difference(beats: Sequence[torch.Tensor]) -> float | None:
    """
    Return the mean absolute difference between two beats, over all pairs of them.

    Args:
        beats: generated beats of one patient, each (T, H, W, D) at the same phases.

    Returns:
        The mean, in the units of the frames, or None for fewer than 2 beats.

    Example:
        >>> beat_difference([torch.zeros(2, 4, 4, 4), torch.ones(2, 4, 4, 4)])
        1.0
    """
    values = [
        float((first.float() - second.float()).abs().mean(dtype=torch.float64))
        for index, first in enumerate(beats)
        for second in beats[index + 1 :]
    ]
    return math.fsum(values) / len(values) if values else None
