"""Features of a set of images, in an order that depends on the images alone."""

from __future__ import annotations

import json
import os

import numpy as np
import torch

from ..utils.errors import DataError
from ..utils.seeding import keyed_generator
from .moments import FeatureMoments, save_npz

__all__ = ["FeatureSet"]


class FeatureSet:
    """
    Features of a set of images, in the order of the images' hashes.

    The order, and so every random subset, is the same whatever the order of the images, the batch size or the number
    of processes. Of a large set there may be the moments of all images and the features of some.

    Args:
        features: (N, D).
        keys: (N,), int64, the images' hashes.
        moments: moments of all images of the set, of which the features may be a part; default: those of the features,
            computed when asked for.

    Raises:
        ValueError: when the shapes do not belong together.

    Example:
        >>> FeatureSet(torch.tensor([[1.0], [2.0]]), torch.tensor([9, 4])).features.flatten().tolist()
        [2.0, 1.0]
    """

    def __init__(self, features: torch.Tensor, keys: torch.Tensor, moments: FeatureMoments | None = None) -> None:
        if features.ndim != 2 or keys.shape != features.shape[:1]:
            raise ValueError(f"features must be (N, D), keys (N,), got {tuple(features.shape)} and {tuple(keys.shape)}")
        order = torch.argsort(keys, stable=True)
        self.features, self.keys = features[order], keys[order]
        self._moments = moments

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def n(self) -> int:
        """Number of images in the set, of which ``len`` have their features here."""
        return len(self) if self._moments is None else self._moments.n

    @property
    def moments(self) -> FeatureMoments:
        """Moments of all images of the set."""
        if self._moments is None:
            self._moments = FeatureMoments(self.features.shape[1]).update(self.features)
        return self._moments

    def subset(self, size: int, *key: int | str) -> FeatureSet:
        """Return ``size`` of the features drawn without replacement by a key; the set when it has no more images."""
        if size >= self.n:
            return self
        rows = torch.randperm(len(self), generator=keyed_generator("subset", *key))[:size]
        return FeatureSet(self.features[rows], self.keys[rows])

    def halves(self, *key: int | str) -> tuple[FeatureSet, FeatureSet]:
        """Return two random halves of equal size, drawn by a key; an odd member is left out."""
        rows = torch.randperm(len(self), generator=keyed_generator("halves", *key))
        half = len(self) // 2
        first, second = rows[:half], rows[half : 2 * half]
        return FeatureSet(self.features[first], self.keys[first]), FeatureSet(self.features[second], self.keys[second])

    def save(self, path: str | os.PathLike[str], **description: str | int) -> None:
        """Write an ``.npz`` file, atomically, with the moments and a description of where the features came from."""
        arrays = {"features": self.features.numpy(), "keys": self.keys.numpy(), "n": np.asarray(self.n)}
        arrays |= {"total": self.moments.total.numpy(), "outer": self.moments.outer.numpy()}
        save_npz(path, arrays | {"description": np.asarray(json.dumps(description, sort_keys=True))})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FeatureSet:
        """
        Read what `save` wrote; no pickle is ever opened.

        Raises:
            DataError: when the file is missing or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                features, keys = torch.from_numpy(archive["features"]), torch.from_numpy(archive["keys"])
                if "total" not in archive:  # written before version 0.2
                    return cls(features, keys)
                moments = FeatureMoments(features.shape[1])
                moments.n = int(archive["n"])
                moments.total, moments.outer = (torch.from_numpy(archive[name]) for name in ("total", "outer"))
                return cls(features, keys, moments)
        except Exception as error:
            raise DataError(f"{path}: not a readable file of features ({type(error).__name__}: {error})") from None
