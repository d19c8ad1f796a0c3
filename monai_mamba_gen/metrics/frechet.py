"""The Frechet distance between two sets of features, each taken as a Gaussian (Heusel et al. 2017, equation 6)."""

from __future__ import annotations

import torch

from .moments import FeatureMoments

__all__ = ["frechet_distance", "gaussian_frechet_distance", "sample_size_warnings"]


def _root_factor(cov: torch.Tensor, rank: int | None) -> torch.Tensor:
    """Return F with ``F @ F.T = cov``, keeping the ``rank`` largest eigenvalues."""
    values, vectors = torch.linalg.eigh(cov)
    if rank is not None and rank < values.numel():
        values, vectors = values[-rank:], vectors[:, -rank:]
    return vectors * values.clamp(min=0).sqrt()


def gaussian_frechet_distance(
    mean_a: torch.Tensor,
    cov_a: torch.Tensor,
    mean_b: torch.Tensor,
    cov_b: torch.Tensor,
    rank_a: int | None = None,
    rank_b: int | None = None,
) -> float:
    """
    Compute ``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))``.

    With ``C = F F'`` from a symmetric eigendecomposition, the trace of the root is the sum of the singular values of
    ``F_a' F_b``. That never leaves the real numbers and needs no offset for singular matrices, unlike a general matrix
    square root.

    Args:
        mean_a: (D,).
        cov_a: (D, D), symmetric.
        mean_b: (D,).
        cov_b: (D, D), symmetric.
        rank_a: known rank of cov_a; smaller eigenvalues are rounding noise and are dropped. Default: full.
        rank_b: the same for cov_b.

    Returns:
        The squared distance, in squared units of the features, at least 0.
    """
    mean_a, cov_a, mean_b, cov_b = (value.double() for value in (mean_a, cov_a, mean_b, cov_b))
    product = _root_factor(cov_a, rank_a).T @ _root_factor(cov_b, rank_b)
    root_trace = torch.linalg.svdvals(product).sum()
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * root_trace
    return max(0.0, float(distance))


def frechet_distance(moments_a: FeatureMoments, moments_b: FeatureMoments) -> float:
    """
    Compute the Frechet distance between two sets of features.

    The estimate is biased upwards, more so for fewer samples: compare only figures with the same n, and always give n.

    Args:
        moments_a: moments of one set, n >= 2.
        moments_b: moments of the other set, n >= 2, same dim.

    Returns:
        The squared distance, at least 0. It is an "FID" only when the features are Inception-v3's.

    Raises:
        ValueError: when the dims differ or a set has fewer than 2 vectors.

    Example:
        >>> features = torch.randn(50, 3, dtype=torch.float64)
        >>> a, b = FeatureMoments(3).update(features), FeatureMoments(3).update(features + 2)
        >>> round(frechet_distance(a, b), 6)
        12.0
    """
    if moments_a.dim != moments_b.dim:
        raise ValueError(f"moments_a and moments_b must have the same dim, got {moments_a.dim} and {moments_b.dim}")
    return gaussian_frechet_distance(
        moments_a.mean, moments_a.cov, moments_b.mean, moments_b.cov, moments_a.n - 1, moments_b.n - 1
    )


def sample_size_warnings(n_real: int, n_fake: int, dim: int) -> list[str]:
    """
    Say what makes a Frechet distance at these sample sizes unsafe to read on its own.

    Args:
        n_real: number of real images.
        n_fake: number of synthetic images.
        dim: length of a feature vector.

    Returns:
        Sentences, each with the n it is about; none when both sets have at least ``2 * dim`` images and the same size.
    """
    warnings = [
        f"n_{name} = {n} is below twice the feature size ({2 * dim}): the Frechet distance is dominated by sampling "
        "bias; read it beside the floor at the same n, or read the kernel distance"
        for name, n in (("real", n_real), ("fake", n_fake))
        if n < 2 * dim
    ]
    if n_real != n_fake:
        warnings.append(f"n_real = {n_real} and n_fake = {n_fake} differ: compare only with figures at these same n")
    return warnings
