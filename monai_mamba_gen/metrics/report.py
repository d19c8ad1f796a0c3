"""The report of an evaluation: every distance beside its floor, its n and what it was taken on."""

from __future__ import annotations

import math
import platform
from typing import Any

import ignite
import monai
import numpy as np
import torch

from .. import __version__
from .diversity import ms_ssim_diversity
from .feature_set import FeatureSet
from .features import FeatureExtractor
from .frechet import frechet_distance, sample_size_warnings
from .kernel_distance import kernel_distance

__all__ = ["build_report", "compare_sets"]


def _plain(result: Any) -> dict[str, Any]:
    """Turn a named tuple into a dictionary for JSON, with None for a number that does not exist."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in result._asdict().items()
    }


def compare_sets(a: FeatureSet, b: FeatureSet, seed: int = 0, **kernel_arguments: Any) -> dict[str, Any]:
    """
    Measure how far two sets of features are apart.

    Args:
        a: one set, at least 2 members.
        b: the other set, same feature size.
        seed: names the subsets of the kernel distance.
        kernel_arguments: ``degree``, ``subsets`` and ``subset_size`` of `kernel_distance`.

    Returns:
        ``{"frechet_distance": float, "kernel_distance": {"mean", "standard_error", "subsets", "subset_size"}}``.
    """
    return {
        "frechet_distance": frechet_distance(a.moments, b.moments),
        "kernel_distance": _plain(kernel_distance(a.features, b.features, seed=seed, **kernel_arguments)),
    }


def _floor(
    real: FeatureSet, n_fake: int, reference: FeatureSet | None, seed: int, kernel_arguments: dict[str, Any]
) -> dict[str, Any]:
    """Compare real images with real images, at the number of synthetic ones or as near to it as there are images."""
    if reference is not None:
        first, second = reference.subset(n_fake, seed, "floor"), real
        kind = "reference images, subsampled to n_fake, against the real held-out images"
    else:
        halves = real.halves(seed, "floor")
        first, second = (half.subset(n_fake, seed, "floor") for half in halves)
        kind = "two random halves of the real images (no reference set was given; one patient may be in both)"
    report: dict[str, Any] = {"kind": kind, "n": first.n, "n_against": second.n}
    if len(first) < 2:
        return report | {"frechet_distance": None, "kernel_distance": None}
    return report | compare_sets(first, second, seed, **kernel_arguments)


def build_report(
    extractor: FeatureExtractor,
    real: FeatureSet,
    fake: FeatureSet,
    real_images: torch.Tensor,
    fake_images: torch.Tensor,
    reference: FeatureSet | None = None,
    ms_ssim_pairs: int = 200,
    seed: int = 0,
    **kernel_arguments: Any,
) -> dict[str, Any]:
    """
    Compute every figure of an evaluation.

    Args:
        extractor: the network the features are from.
        real: features of held-out real images, at least 2. Of a large set these may be some: the Frechet distance is of
            all images, the kernel distance of those whose features there are, and the report then says so.
        fake: features of synthetic images, at least 2; likewise.
        real_images: (N, 1, H, W) in [-1, 1], N >= 2, real images for the diversity.
        fake_images: (N, 1, H, W) in [-1, 1], N >= 2, synthetic images for the diversity.
        reference: features of other real images for the floor; default: halves of ``real``.
        ms_ssim_pairs: pairs of images for the diversity.
        seed: names every random choice.
        kernel_arguments: ``degree``, ``subsets`` and ``subset_size`` of `kernel_distance`.

    Returns:
        A dictionary of finite numbers, strings, None, lists and dictionaries of these.
    """
    floor = _floor(real, fake.n, reference, seed, kernel_arguments)
    warnings = sample_size_warnings(real.n, fake.n, extractor.dim)
    if floor["n"] != fake.n:
        cause = "images" if reference is None or reference.n < fake.n else "features kept"
        warnings.append(f"the floor is at n = {floor['n']}, not at n_fake = {fake.n}: there are too few real {cause}")
    if floor["n_against"] != real.n:
        warnings.append(f"the floor is against {floor['n_against']} real images, not against all {real.n}")
    for name, group in (("synthetic", fake), ("real", real), ("reference", reference)):
        if group is not None and len(group) < group.n:
            warnings.append(
                f"the kernel distance draws from {len(group)} of {group.n} {name} images, chosen by the hash of their "
                "pixels; the Frechet distance is of all"
            )
    if real_images.shape[2:] != fake_images.shape[2:]:
        sizes = f"{tuple(real_images.shape[2:])} and {tuple(fake_images.shape[2:])}"
        warnings.append(f"real and synthetic images differ in size: {sizes} pixels")
    packages = (torch, monai, ignite, np)
    return {
        "extractor": extractor.name,
        "preprocessing": extractor.preprocessing,
        "feature_dim": extractor.dim,
        "distance_label": extractor.distance_label,
        "n_real": real.n,
        "n_fake": fake.n,
        "n_floor": floor["n"],
        "n_features": {"real": len(real), "fake": len(fake)},
        "synthetic_vs_real": compare_sets(fake, real, seed, **kernel_arguments),
        "floor": floor,
        "ms_ssim": {
            "real": _plain(ms_ssim_diversity(real_images, ms_ssim_pairs, seed)),
            "synthetic": _plain(ms_ssim_diversity(fake_images, ms_ssim_pairs, seed)),
        },
        "warnings": warnings,
        "seed": seed,
        "versions": {"monai_mamba_gen": __version__, "python": platform.python_version()}
        | {package.__name__: package.__version__ for package in packages},
    }
