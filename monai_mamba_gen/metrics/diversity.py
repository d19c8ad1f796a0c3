"""Diversity of a set of images: how alike two random members are."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from monai.metrics import MultiScaleSSIMMetric

from ..utils.seeding import keyed_generator

__all__ = ["MultiScaleSSIMDiversity", "ms_ssim_diversity"]

_KERNEL_SIZE = 4
_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


class MultiScaleSSIMDiversity(NamedTuple):
    """Result of `ms_ssim_diversity`; ``standard_error`` is NaN where there was only one pair."""

    mean: float
    standard_error: float
    pairs: int
    scales: int


def _number_of_scales(size: int) -> int:
    """Return how many scales fit an image whose shorter side is ``size``: MONAI's own check and the pooled size."""
    fitting = [
        scales
        for scales in range(1, len(_WEIGHTS) + 1)
        if size // max(1, scales - 1) ** 2 >= _KERNEL_SIZE and size // 2 ** (scales - 1) >= _KERNEL_SIZE
    ]
    return max(fitting, default=0)


def ms_ssim_diversity(
    images: torch.Tensor, pairs: int = 200, seed: int = 0, batch_size: int = 32
) -> MultiScaleSSIMDiversity:
    """
    Compute the mean multi-scale SSIM over random pairs of images; lower is more diverse.

    The value means something only beside that of the real images. A kernel of 4 pixels is used, since MONAI's default
    of 11 refuses images of 160 pixels and fewer; images below 64 pixels use fewer scales, with weights that sum to 1.

    Args:
        images: (N, 1, H, W) in [-1, 1], N >= 2, H and W at least 4; values outside are clipped.
        pairs: number of pairs of two different members; all pairs when there are no more than that.
        seed: names the random pairs.
        batch_size: pairs compared at once.

    Returns:
        Mean, standard error over the pairs, number of pairs and of scales.

    Raises:
        ValueError: when images has another shape or pairs is below 1.

    Example:
        >>> ms_ssim_diversity(torch.zeros(3, 1, 16, 16)).mean
        1.0
    """
    if images.ndim != 4 or images.shape[1] != 1 or images.shape[0] < 2:
        raise ValueError(f"images must be (N, 1, H, W) with N >= 2, got {tuple(images.shape)}")
    scales = _number_of_scales(min(images.shape[2:]))
    if scales == 0:
        raise ValueError(f"images must be at least {_KERNEL_SIZE} pixels high and wide, got {tuple(images.shape)}")
    if pairs < 1:
        raise ValueError(f"pairs must be at least 1, got {pairs}")
    left, right = _draw_pairs(images.shape[0], pairs, seed)
    weights = [weight / sum(_WEIGHTS[:scales]) for weight in _WEIGHTS[:scales]]
    metric = MultiScaleSSIMMetric(
        spatial_dims=2, data_range=1.0, kernel_size=_KERNEL_SIZE, weights=weights, reduction="none"
    )
    unit = (images.detach().float().clamp(-1, 1) + 1) / 2
    values = torch.cat(
        [
            metric(unit[left[start : start + batch_size]], unit[right[start : start + batch_size]]).flatten()
            for start in range(0, len(left), batch_size)
        ]
    ).double()
    error = float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return MultiScaleSSIMDiversity(float(values.mean()), error, len(values), scales)


def _draw_pairs(n: int, pairs: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return indices of ``pairs`` pairs with two different members, or all of them when there are no more."""
    if n * (n - 1) // 2 <= pairs:
        left, right = torch.triu_indices(n, n, offset=1)
        return left, right
    generator = keyed_generator(seed, "diversity pairs")
    left = torch.randint(n, (pairs,), generator=generator)
    right = (left + torch.randint(1, n, (pairs,), generator=generator)) % n
    return left, right
