"""Collects features of images batch by batch and gathers them over processes."""

from __future__ import annotations

from typing import Any

import torch
from monai.utils import evenly_divisible_all_gather

from ..utils.errors import DataError
from .feature_set import FeatureSet
from .features import FeatureExtractor, extract_features
from .images import from_eight_bit, image_keys, to_eight_bit
from .moments import FeatureMoments

__all__ = ["FeatureCollector"]


class FeatureCollector:
    """
    Collects features of images as they come, and a bounded number of the images themselves.

    Images are rounded to 8 bits first, so that tensors and saved PNG files give the same features.

    Args:
        extractor: maps (N, 1, H, W) in [-1, 1] to (N, D).
        name: what error messages call the set.
        keep: number of images kept, over all processes: those with the smallest hashes.
        batch_size: images given to the extractor at once.
        device: where the extractor runs; it has to be there already.

    Example:
        >>> from monai_mamba_gen.metrics import RandomConvFeatures
        >>> collector = FeatureCollector(RandomConvFeatures(8), "synthetic", keep=2)
        >>> collector.add(torch.zeros(3, 1, 16, 16))
        >>> len(collector.gather()), collector.gather_images().shape
        (3, torch.Size([2, 1, 16, 16]))
    """

    def __init__(
        self, extractor: FeatureExtractor, name: str, keep: int = 0, batch_size: int = 32, device: Any = None
    ) -> None:
        self.extractor, self.name, self.keep = extractor, name, keep
        self.batch_size, self.device = batch_size, device
        self.moments = FeatureMoments(extractor.dim)
        self._features: list[torch.Tensor] = []
        self._keys: list[torch.Tensor] = []
        self._kept: tuple[torch.Tensor, torch.Tensor] | None = None

    def add(self, images: torch.Tensor, with_features: bool = True) -> None:
        """
        Add images.

        Args:
            images: (N, 1, H, W) in [-1, 1], or uint8 as `to_eight_bit` makes them.
            with_features: take their features too; otherwise the images are only candidates for being kept.

        Raises:
            DataError: when the shape is another one, or an image or a feature is not finite.
        """
        if images.ndim != 4 or images.shape[1] != 1:
            raise DataError(f"{self.name} images must be (N, 1, H, W), got {tuple(images.shape)}")
        if images.is_floating_point() and not torch.isfinite(images).all():
            raise DataError(f"{self.name} images hold NaN or infinite values")
        images = images.cpu() if images.dtype == torch.uint8 else to_eight_bit(images)
        keys = image_keys(images)
        self._keep(images, keys)
        if not with_features:
            return
        features = extract_features(self.extractor, from_eight_bit(images), self.batch_size, self.device)
        if not torch.isfinite(features).all():
            raise DataError(f"features of the {self.name} images hold NaN or infinite values ({self.extractor.name})")
        self.moments.update(features)
        self._features.append(features)
        self._keys.append(keys)

    def _keep(self, images: torch.Tensor, keys: torch.Tensor) -> None:
        if self._kept is not None:
            if images.shape[1:] != self._kept[0].shape[1:]:
                shapes = f"{tuple(images.shape[1:])} and {tuple(self._kept[0].shape[1:])}"
                raise DataError(f"{self.name} images must have one size, got {shapes}")
            images, keys = torch.cat([self._kept[0], images]), torch.cat([self._kept[1], keys])
        order = torch.argsort(keys, stable=True)[: self.keep]
        self._kept = images[order], keys[order]

    def gather(self) -> FeatureSet:
        """Return the features of all processes; every process has to call this."""
        features = torch.cat([*self._features, torch.zeros(0, self.extractor.dim)])
        keys = torch.cat([*self._keys, torch.zeros(0, dtype=torch.int64)])
        return FeatureSet(
            evenly_divisible_all_gather(features, concat=True),
            evenly_divisible_all_gather(keys, concat=True),
            self.moments.all_reduce(),
        )

    def gather_images(self) -> torch.Tensor:
        """Return the kept images of all processes, (n, 1, H, W) in [-1, 1]; every process has to call this."""
        sizes = [list(self._kept[0].shape[2:])] if self._kept is not None else []
        known = evenly_divisible_all_gather(torch.tensor(sizes, dtype=torch.int64).reshape(-1, 2), concat=True)
        if len(known) == 0 or (known != known[0]).any():
            raise DataError(f"{self.name} images must be there and have one size, got sizes {known.tolist()}")
        images, keys = self._kept or (
            torch.zeros(0, 1, *known[0].tolist(), dtype=torch.uint8),
            torch.zeros(0, dtype=torch.int64),
        )
        images = evenly_divisible_all_gather(images, concat=True)
        keys = evenly_divisible_all_gather(keys, concat=True)
        return from_eight_bit(images[torch.argsort(keys, stable=True)[: self.keep]])
