"""A class label that says whether something is to be seen."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from monai_mamba_gen.utils.plain_tensor import plain_tensor

__all__ = ["PresenceLabeld"]


class PresenceLabeld(MapTransform):
    """
    Turn a segmentation into a class label: 1 where any of it is above 0, else 0.

    As ``transform`` of a `SliceDataset` with the keys "image" and "label" it tells slices with a tumour from those
    without.

    Args:
        keys: segmentations of any shape.
        to: key of the label, one or one per key; an int64 tensor without dimensions.
        min_voxels: least number of pixels or voxels above 0 for label 1.
        allow_missing_keys: whether missing keys are skipped.

    Raises:
        ValueError: when an argument is outside what is allowed.

    Example:
        >>> PresenceLabeld("label")({"label": torch.tensor([[0.0, 4.0]])})["class_label"]
        tensor(1)
    """

    def __init__(
        self,
        keys: KeysCollection = "label",
        to: KeysCollection = "class_label",
        min_voxels: int = 1,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.to = (to,) if isinstance(to, str) else tuple(to)
        if len(self.to) != len(self.keys):
            raise ValueError(f"to must name one label per key {self.keys}, got {self.to}")
        if isinstance(min_voxels, bool) or not isinstance(min_voxels, int) or min_voxels < 1:
            raise ValueError(f"min_voxels must be a whole number above 0, got {min_voxels!r}")
        self.min_voxels = min_voxels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with a class label for each key."""
        result = dict(data)
        for key, name in self.key_iterator(result, self.to):
            mask = plain_tensor(torch.as_tensor(result[key])) > 0
            result[name] = (mask.sum() >= self.min_voxels).long()
        return result
