"""Kernel distance (KID on Inception features): unbiased squared MMD with a polynomial kernel."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from ..utils.seeding import keyed_generator

__all__ = ["KernelDistance", "kernel_distance"]

# Whole kernel matrices are held only up to this many feature vectors in both sets together (0.5 GB in float64).
_MAX_GRAM = 8192


class KernelDistance(NamedTuple):
    """Result of `kernel_distance`; ``standard_error`` is NaN where there was only one subset."""

    mean: float
    standard_error: float
    subsets: int
    subset_size: int


def _kernel(a: torch.Tensor, b: torch.Tensor, degree: int) -> torch.Tensor:
    """Return ``(a . b / D + 1) ** degree`` for every pair of rows."""
    return (a @ b.T / a.shape[1] + 1) ** degree


def _unbiased_mmd(k_aa: torch.Tensor, k_bb: torch.Tensor, k_ab: torch.Tensor) -> float:
    """Return the U-statistic of the squared MMD (Gretton et al. 2012, equation 3)."""
    m, n = k_ab.shape
    within_a = (k_aa.sum() - k_aa.trace()) / (m * (m - 1))
    within_b = (k_bb.sum() - k_bb.trace()) / (n * (n - 1))
    return float(within_a + within_b - 2 * k_ab.mean())


def kernel_distance(
    features_a: torch.Tensor,
    features_b: torch.Tensor,
    degree: int = 3,
    subsets: int = 100,
    subset_size: int | None = None,
    seed: int = 0,
) -> KernelDistance:
    """
    Compute the kernel distance of Binkowski et al. (2018): unbiased squared MMD, averaged over random subsets.

    The kernel is ``(x . y / D + 1) ** degree``. Being unbiased, the value does not shift with n, and is slightly
    negative about half of the time when both sets come from one distribution.

    Args:
        features_a: (N, D), N >= 2, finite.
        features_b: (M, D), M >= 2, finite.
        degree: degree of the polynomial, at least 1.
        subsets: number of random subsets, at least 1.
        subset_size: vectors drawn from each set, without replacement, at least 2; more than a set holds means all it
            holds. Default: half of the smaller set, at most 1000. When a subset would be all of both sets, one value
            over everything is computed.
        seed: names the random subsets; the same seed draws the same rows whatever ran before.

    Returns:
        Mean, standard error over the subsets (they overlap: it describes the drawing, not the choice of images),
        number of subsets and subset size used.

    Raises:
        ValueError: when an argument is outside the ranges above.

    Example:
        >>> kernel_distance(torch.zeros(4, 2), torch.ones(4, 2)).mean
        7.0
    """
    a, b = features_a.detach().cpu(), features_b.detach().cpu()
    for name, value in (("features_a", a), ("features_b", b)):
        if value.ndim != 2 or value.shape[0] < 2 or value.shape[1] != a.shape[-1]:
            raise ValueError(f"{name} must be (N, D) with N >= 2 and one D for both, got {tuple(value.shape)}")
        if not torch.isfinite(value).all():
            raise ValueError(f"{name} must be finite, got NaN or infinite values")
    if degree < 1 or subsets < 1 or (subset_size is not None and subset_size < 2):
        raise ValueError(
            "degree and subsets must be at least 1 and subset_size at least 2, "
            f"got degree={degree}, subsets={subsets}, subset_size={subset_size}"
        )
    smaller = min(len(a), len(b))
    size = min(1000, max(2, smaller // 2)) if subset_size is None else min(subset_size, smaller)
    if size == len(a) == len(b):
        a, b = a.double(), b.double()
        value = _unbiased_mmd(_kernel(a, a, degree), _kernel(b, b, degree), _kernel(a, b, degree))
        return KernelDistance(value, math.nan, 1, size)

    total = len(a) + len(b)
    both = torch.cat([a, b])  # to float64 in parts only, as there may be many
    gram = (
        _kernel(both.double(), both.double(), degree)
        if total <= _MAX_GRAM and total**2 <= subsets * (2 * size) ** 2
        else None
    )
    values = []
    for index in range(subsets):
        generator = keyed_generator(seed, "kernel distance", index)
        rows_a = torch.randperm(len(a), generator=generator)[:size]
        rows_b = torch.randperm(len(b), generator=generator)[:size] + len(a)
        rows = torch.cat([rows_a, rows_b])
        drawn = both[rows].double()
        block = _kernel(drawn, drawn, degree) if gram is None else gram[rows][:, rows]
        values.append(_unbiased_mmd(block[:size, :size], block[size:, size:], block[:size, size:]))
    sample = torch.tensor(values, dtype=torch.float64)
    error = float(sample.std() / math.sqrt(subsets)) if subsets > 1 else math.nan
    return KernelDistance(float(sample.mean()), error, subsets, size)
