"""Collects features of images batch by batch and gathers them over processes."""

from __future__ import annotations

from typing import Any

import torch

from ..utils.distributed import gather_rows
from ..utils.errors import DataError
from .feature_set import FeatureSet
from .features import FeatureExtractor, extract_features
from .images import from_eight_bit, image_keys, to_eight_bit
from .moments import FeatureMoments

__all__ = ["FeatureCollector"]


class FeatureCollector:
    """
    Collects moments of features of images as they come, and a bounded number of the features and the images themselves.

    Images are rounded to 8 bits first, so that tensors and saved PNG files give the same features. What is kept does
    not depend on order, batches or processes: it is what has the smallest hashes of pixels. The moments are of all.

    Args:
        extractor: maps (N, 1, H, W) in [-1, 1] to (N, D).
        name: what error messages call the set.
        keep: number of images kept, over all processes.
        batch_size: images given to the extractor at once.
        device: where the extractor runs; it has to be there already.
        max_features: number of feature vectors kept, over all processes; default: all.

    Example:
        >>> from monai_mamba_gen.metrics import RandomConvFeatures
        >>> collector = FeatureCollector(RandomConvFeatures(8), "synthetic", keep=2)
        >>> collector.add(torch.zeros(3, 1, 16, 16))
        >>> len(collector.gather()), collector.gather_images().shape
        (3, torch.Size([2, 1, 16, 16]))
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        name: str,
        keep: int = 0,
        batch_size: int = 32,
        device: Any = None,
        max_features: int | None = None,
    ) -> None:
        if max_features is not None and max_features < 2:
            raise ValueError(f"max_features must be None or at least 2, got {max_features}")
        self.extractor, self.name, self.keep = extractor, name, keep
        self.batch_size, self.device, self.max_features = batch_size, device, max_features
        self.moments = FeatureMoments(extractor.dim)
        self._features: list[torch.Tensor] = []
        self._keys: list[torch.Tensor] = []
        self._kept: tuple[torch.Tensor, torch.Tensor] | None = None

    def add(self, images: torch.Tensor, with_features: bool = True, with_images: bool = True) -> torch.Tensor:
        """
        Add images.

        Args:
            images: (N, 1, H, W) in [-1, 1], or uint8 as `to_eight_bit` makes them.
            with_features: take their features.
            with_images: the images are candidates for being kept.

        Returns:
            The images' hashes, see `image_keys`.

        Raises:
            DataError: when the shape is another one, or an image or a feature is not finite.
        """
        if images.ndim != 4 or images.shape[1] != 1:
            raise DataError(f"{self.name} images must be (N, 1, H, W), got {tuple(images.shape)}")
        if images.is_floating_point() and not torch.isfinite(images).all():
            raise DataError(f"{self.name} images hold NaN or infinite values")
        images = images.cpu() if images.dtype == torch.uint8 else to_eight_bit(images)
        keys = image_keys(images)
        if with_images:
            self._keep(images, keys)
        if not with_features:
            return keys
        features = extract_features(self.extractor, from_eight_bit(images), self.batch_size, self.device)
        if not torch.isfinite(features).all():
            raise DataError(f"features of the {self.name} images hold NaN or infinite values ({self.extractor.name})")
        self.moments.update(features)
        self._features.append(features)
        self._keys.append(keys)
        if self.max_features is not None and sum(map(len, self._keys)) > 2 * self.max_features:
            self._trim(self.max_features)
        return keys

    def _keep(self, images: torch.Tensor, keys: torch.Tensor) -> None:
        if self._kept is not None:
            if images.shape[1:] != self._kept[0].shape[1:]:
                shapes = f"{tuple(images.shape[1:])} and {tuple(self._kept[0].shape[1:])}"
                raise DataError(f"{self.name} images must have one size, got {shapes}")
            if 0 < self.keep == len(self._kept[1]):
                near = keys < self._kept[1][-1]
                images, keys = images[near], keys[near]
            images, keys = torch.cat([self._kept[0], images]), torch.cat([self._kept[1], keys])
        order = torch.argsort(keys, stable=True)[: self.keep]
        self._kept = images[order], keys[order]

    def _trim(self, count: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features and keys, after dropping all but those of the ``count`` smallest keys."""
        features = torch.cat([*self._features, torch.zeros(0, self.extractor.dim)])
        keys = torch.cat([*self._keys, torch.zeros(0, dtype=torch.int64)])
        if count is not None and len(keys) > count:
            rows = torch.argsort(keys, stable=True)[:count]
            features, keys = features[rows], keys[rows]
        self._features, self._keys = [features], [keys]
        return features, keys

    def gather(self) -> FeatureSet:
        """Return moments, and the features that are kept, of all processes; every process has to call this."""
        features, keys = self._trim(self.max_features)
        everywhere = gather_rows(keys)
        if self.max_features is not None and len(everywhere) > self.max_features:
            mine = keys <= everywhere.sort().values[self.max_features - 1]
            features, keys = features[mine], keys[mine]
        moments = self.moments.all_reduce()
        features, keys = gather_rows(features), gather_rows(keys)
        rows = torch.argsort(keys, stable=True)[: self.max_features]  # images alike have one key
        return FeatureSet(features[rows], keys[rows], moments)

    def gather_images(self) -> torch.Tensor:
        """Return the kept images of all processes, (n, 1, H, W) in [-1, 1]; every process has to call this."""
        sizes = [list(self._kept[0].shape[2:])] if self._kept is not None else []
        known = gather_rows(torch.tensor(sizes, dtype=torch.int64).reshape(-1, 2))
        if len(known) == 0 or (known != known[0]).any():
            raise DataError(f"{self.name} images must be there and have one size, got sizes {known.tolist()}")
        images, keys = self._kept or (
            torch.zeros(0, 1, *known[0].tolist(), dtype=torch.uint8),
            torch.zeros(0, dtype=torch.int64),
        )
        images, keys = gather_rows(images), gather_rows(keys)
        return from_eight_bit(images[torch.argsort(keys, stable=True)[: self.keep]])
