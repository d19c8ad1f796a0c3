"""How near a translated volume is to the true one, by the definitions of the SynthRAD2023 challenge."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional

from .cine_frames import ssim_window

__all__ = ["translation_scores"]

_C1, _C2 = 0.01**2, 0.03**2  # for values in [0, 1]
_PLANES = 32  # slices of the SSIM map computed at once, which bounds the memory


def translation_scores(
    pred: torch.Tensor, true: torch.Tensor, mask: torch.Tensor, data_range: Sequence[float] = (-1.0, 1.0)
) -> dict[str, float | None]:
    """
    Compare a translated volume with the true one inside a mask: mean absolute error, PSNR and SSIM.

    Followed are the definitions of SynthRAD2023's evaluation (github.com/SynthRAD2023/metrics, file
    functions/image_metrics.py of 2023-07-14; challenge report arXiv 2403.08447):

    - ``mae``: mean of |pred - true| over the voxels of the mask, of the values as they are.
    - ``psnr``: 10 log10(R^2 / mean squared error over the voxels of the mask), in dB, both volumes clipped to
      ``data_range``, whose width is R. Infinite for equal volumes.
    - ``ssim``: both volumes clipped, set to the smallest value of ``data_range`` outside the mask, and moved so that
      this is 0; the SSIM map of the whole volume with a uniform window of 7 voxels an axis, sample covariances and
      C1 = (0.01 R)^2, C2 = (0.03 R)^2 (the defaults of scikit-image); its mean over the voxels of the mask at which
      the window lies inside the volume.

    What differs: the challenge scores CT in Hounsfield units with the range (-1024, 3000); for MR no range is laid
    down, and the one that the volumes are scaled to is taken. Volumes thinner than 7 voxels, which scikit-image
    refuses, get the largest odd window that fits; one slice is scored in 2D. The challenge gives its mask to SSIM as a
    SimpleITK image; the same mask is meant here as for the other two.

    Args:
        pred: (H, W, D) or (H, W), finite inside the mask.
        true: the same.
        mask: the same shape; what is above 0 counts.
        data_range: smallest and largest value.

    Returns:
        ``{"mae": float, "psnr": float, "ssim": float or None}``; None where no voxel of the mask has a whole window.

    Raises:
        ValueError: when the shapes differ or are others, the range is none, the mask is empty, or a volume is not
            finite inside the mask.

    Example:
        >>> scores = translation_scores(torch.full((8, 8, 8), 0.2), torch.zeros(8, 8, 8), torch.ones(8, 8, 8))
        >>> {key: round(value, 4) for key, value in scores.items()}
        {'mae': 0.2, 'psnr': 20.0, 'ssim': 0.9836}
    """
    pred, true, mask = (_plain(volume) for volume in (pred, true, mask))
    low, high = _checked(pred, true, mask, data_range)
    inside = mask > 0
    kept = [volume[inside].double() for volume in (pred, true)]
    if not all(bool(torch.isfinite(values).all()) for values in kept):
        raise ValueError("pred and true must be finite inside the mask, they hold NaN or infinite values")
    error = (kept[0].clamp(low, high) - kept[1].clamp(low, high)).square().mean().item()
    return {
        "mae": (kept[0] - kept[1]).abs().mean().item(),
        "psnr": 10 * math.log10((high - low) ** 2 / error) if error > 0 else math.inf,
        "ssim": _masked_ssim(pred, true, inside, low, high),
    }


def _plain(volume: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(volume).detach().as_subclass(torch.Tensor)


def _checked(
    pred: torch.Tensor, true: torch.Tensor, mask: torch.Tensor, data_range: Sequence[float]
) -> tuple[float, float]:
    shapes = [tuple(volume.shape) for volume in (pred, true, mask)]
    if pred.ndim not in (2, 3) or len(set(shapes)) != 1:
        raise ValueError(f"pred, true and mask must all be (H, W, D) or (H, W), got {', '.join(map(str, shapes))}")
    if len(data_range) != 2 or not data_range[0] < data_range[1]:
        raise ValueError(f"data_range must be (low, high) with low < high, got {tuple(data_range)}")
    if not bool((mask > 0).any()):
        raise ValueError("mask is empty: no voxel is above 0")
    return float(data_range[0]), float(data_range[1])


def _masked_ssim(pred: torch.Tensor, true: torch.Tensor, inside: torch.Tensor, low: float, high: float) -> float | None:
    """Return the mean of the SSIM map over the mask, where the window lies inside the volume."""
    if inside.ndim == 2:
        pred, true, inside = pred[..., None], true[..., None], inside[..., None]
    window = ssim_window(inside.shape)
    # What is farther from the mask than the window reaches cannot count; leaving it out saves most of the time.
    places = inside.nonzero()
    box = tuple(
        slice(max(first - width // 2, 0), last + width // 2 + 1)
        for first, last, width in zip(places.amin(0).tolist(), places.amax(0).tolist(), window, strict=True)
    )
    pred, true, inside = pred[box], true[box], inside[box]
    if any(size < width for size, width in zip(inside.shape, window, strict=True)):
        return None
    total, count = 0.0, 0
    for first in range(0, inside.shape[2] - window[2] + 1, _PLANES):
        part = (..., slice(first, first + _PLANES + window[2] - 1))
        kept = inside[part]
        scaled = [
            torch.where(kept, (volume[part].double().clamp(low, high) - low) / (high - low), 0.0)
            for volume in (pred, true)
        ]
        counted = kept[tuple(slice(side // 2, size - side // 2) for side, size in zip(window, kept.shape, strict=True))]
        values = _ssim_map(*scaled, window)[counted]
        total, count = total + values.sum().item(), count + values.numel()
    return total / count if count else None


def _ssim_map(first: torch.Tensor, second: torch.Tensor, window: Sequence[int]) -> torch.Tensor:
    """
    Return SSIM at each place where the window lies inside two volumes (X, Y, Z) in [0, 1], double precision.

    MONAI's `compute_ssim_and_cs` has the same window but works in float32, where a variance as the difference of two
    means is lost in flat regions: 0.5 % of SSIM between two constant volumes.
    """
    products = (first, second, first * first, second * second, first * second)
    mean, other, square, other_square, product = (_box_mean(volume, window) for volume in products)
    sample = math.prod(window) / (math.prod(window) - 1)
    covariance = sample * (product - mean * other)
    variances = sample * (square - mean**2 + other_square - other**2)
    luminance = (2 * mean * other + _C1) / (mean**2 + other**2 + _C1)
    return luminance * (2 * covariance + _C2) / (variances + _C2)


def _box_mean(volume: torch.Tensor, window: Sequence[int]) -> torch.Tensor:
    volume = volume[None]
    for axis, width in enumerate(window):
        kernel = [1, 1, 1]
        kernel[axis] = width
        volume = functional.avg_pool3d(volume, kernel, stride=1)
    return volume[0]
