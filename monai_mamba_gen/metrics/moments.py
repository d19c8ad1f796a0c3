"""Mean and covariance of features, as sums that merge across batches, files and processes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import ignite.distributed as idist
import numpy as np
import torch

from ..utils.atomic_write import atomic_write
from ..utils.errors import DataError

__all__ = ["FeatureMoments", "save_npz"]


def save_npz(path: str | os.PathLike[str], arrays: dict[str, np.ndarray]) -> None:
    """Write arrays as ``.npz`` through a temporary file, so that a reader never meets half of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, **arrays)


class FeatureMoments:
    """
    Count, sum and sum of outer products of feature vectors, in float64.

    These are plain sums and not sums about a first mean: plain sums of two pieces add up to the sums of the whole, in
    any order and through one all-reduce. In float64 the loss by cancellation is about ``1e-16 * mean**2 / variance``,
    which is far below sampling noise for features of any usual network.

    Args:
        dim: length D of a feature vector.

    Attributes:
        n: number of vectors seen.
        description: what the numbers are of, as given to `save`; a dictionary of strings and numbers.

    Raises:
        ValueError: when dim is not a positive integer.

    Example:
        >>> moments = FeatureMoments(2).update(torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
        >>> moments.n, moments.mean.tolist()
        (2, [1.0, 2.0])
    """

    def __init__(self, dim: int) -> None:
        if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
            raise ValueError(f"dim must be a positive integer, got {dim!r}")
        self.dim = dim
        self.n = 0
        self.total = torch.zeros(dim, dtype=torch.float64)
        self.outer = torch.zeros(dim, dim, dtype=torch.float64)
        self.description: dict[str, str | int | float] = {}

    def update(self, features: torch.Tensor) -> FeatureMoments:
        """
        Add feature vectors.

        Args:
            features: (N, D) of any floating type, on any device.

        Returns:
            This object.

        Raises:
            ValueError: when the shape is not (N, D) or a value is not finite.
        """
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise ValueError(f"features must be (N, {self.dim}), got {tuple(features.shape)}")
        values = features.detach().cpu().double()
        if not torch.isfinite(values).all():
            raise ValueError(f"features must be finite, got {int((~values.isfinite()).sum())} NaN or infinite values")
        self.n += values.shape[0]
        self.total += values.sum(dim=0)
        self.outer += values.T @ values
        return self

    def merge(self, other: FeatureMoments) -> FeatureMoments:
        """Return the moments of both sets together; neither operand changes."""
        if other.dim != self.dim:
            raise ValueError(f"other must have dim {self.dim} to be merged, got {other.dim}")
        merged = FeatureMoments(self.dim)
        merged.n = self.n + other.n
        merged.total = self.total + other.total
        merged.outer = self.outer + other.outer
        return merged

    __add__ = merge

    def all_reduce(self) -> FeatureMoments:
        """Return the moments over all processes; a copy of these where there is only one process."""
        count = torch.tensor([self.n], dtype=torch.float64)
        packed = torch.cat([count, self.total, self.outer.flatten()])
        packed = idist.all_reduce(packed).cpu()
        merged = FeatureMoments(self.dim)
        merged.n = int(packed[0])
        merged.total = packed[1 : self.dim + 1].clone()
        merged.outer = packed[self.dim + 1 :].reshape(self.dim, self.dim).clone()
        return merged

    @property
    def mean(self) -> torch.Tensor:
        """Mean vector (D,), float64."""
        if self.n < 1:
            raise ValueError("mean needs at least 1 feature vector, got 0")
        return self.total / self.n

    @property
    def cov(self) -> torch.Tensor:
        """Unbiased covariance matrix (D, D), float64, exactly symmetric."""
        if self.n < 2:
            raise ValueError(f"cov needs at least 2 feature vectors, got {self.n}")
        covariance = (self.outer - torch.outer(self.total, self.total) / self.n) / (self.n - 1)
        return (covariance + covariance.T) / 2

    def save(self, path: str | os.PathLike[str], **description: str | int | float) -> None:
        """
        Write the sums to an ``.npz`` file, atomically.

        Args:
            path: the file; its folder is made.
            description: what the numbers are of, such as ``extractor="..."`` and ``preprocessing="..."``.
        """
        save_npz(
            path,
            {
                "n": np.asarray(self.n, dtype=np.int64),
                "total": self.total.numpy(),
                "outer": self.outer.numpy(),
                "description": np.asarray(json.dumps(description, sort_keys=True)),
            },
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FeatureMoments:
        """
        Read what `save` wrote; no pickle is ever opened.

        Raises:
            DataError: when the file is missing, damaged or of another kind.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                total, outer = archive["total"], archive["outer"]
                n, description = int(archive["n"]), json.loads(str(archive["description"]))
        except Exception as error:
            raise DataError(f"{path}: not a file of feature moments ({type(error).__name__}: {error})") from None
        if total.ndim != 1 or outer.shape != (total.size, total.size):
            raise DataError(f"{path}: total {total.shape} and outer {outer.shape} do not belong together")
        moments = cls(total.size)
        moments.n, moments.description = n, description
        moments.total = torch.from_numpy(total.astype(np.float64))
        moments.outer = torch.from_numpy(outer.astype(np.float64))
        return moments
