"""A body mask made from the CT, where none was drawn."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.transforms import Transform

from monai_mamba_gen.utils.errors import DataError

from .data_source import source_name
from .regions import fill_holes, largest_component

__all__ = ["BodyMaskd"]


class BodyMaskd(Transform):
    """
    Make a mask of the body from a CT in HU: the largest region above a threshold, with what each slice of it encloses.

    A mask that is there stays as it is. Air that is open to the outside within a slice, such as nostrils, stays
    outside, and so does a table that does not touch the body.

    Args:
        image_key: key of the CT, (1, X, Y) or (1, X, Y, Z), in HU.
        mask_key: key of the mask to make, uint8 (0 or 1) with the CT's shape and affine.
        threshold: HU above which a voxel may be body.

    Raises:
        DataError: at call, naming file and key, when no voxel or every voxel is above the threshold.

    Example:
        >>> ct = torch.full((1, 5, 5, 1), -1000.0)
        >>> ct[0, 1:4, 1:4, 0] = 40.0
        >>> ct[0, 2, 2, 0] = -900.0
        >>> int(BodyMaskd()({"image": ct})["mask"].sum())
        9
    """

    def __init__(self, image_key: str = "image", mask_key: str = "mask", threshold: float = -300.0) -> None:
        self.image_key = image_key
        self.mask_key = mask_key
        self.threshold = threshold

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with a mask."""
        result = dict(data)
        if result.get(self.mask_key) is not None:
            return result
        image = result[self.image_key]
        body = (torch.as_tensor(image) > self.threshold).cpu().numpy()
        if not body.any() or body.all():
            low, high = float(image.min()), float(image.max())
            raise DataError(
                f"file {source_name(image)} (key {self.image_key!r}): {'no' if not body.any() else 'every'} voxel is "
                f"above {self.threshold:g} HU, the values are {low:g} to {high:g}; is this a CT in HU?"
            )
        filled = np.stack([fill_holes(largest_component(channel), (0, 1)) for channel in body])
        mask = torch.zeros_like(image, dtype=torch.uint8)
        mask[...] = torch.as_tensor(filled.astype(np.uint8), device=mask.device)
        result[self.mask_key] = mask
        return result
