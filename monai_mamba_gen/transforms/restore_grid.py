"""Back from the crop that a network sees to the grid of the scan."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, SpatialResample

__all__ = ["RestoreGridd"]


class RestoreGridd(MapTransform):
    """
    Resample (C, H, W, D) to the grid of the file that an image was loaded from, trilinearly.

    `HeartCropd` and ``Spacingd`` are undone in one step by way of the affines, for viewers that lay a result over the
    scan. What lies outside the crop gets ``background``.

    Args:
        keys: keys to resample, MetaTensors.
        image_key: the preprocessed image, a MetaTensor whose meta data still know ``original_affine`` and
            ``spatial_shape`` of the file.
        background: value outside the crop.
        allow_missing_keys: whether missing keys are skipped.

    Example:
        >>> meta = {"original_affine": torch.eye(4), "spatial_shape": (8, 8, 4)}
        >>> crop = MetaTensor(torch.ones(1, 4, 4, 4), affine=torch.eye(4), meta=meta)
        >>> RestoreGridd("pred")({"image": crop, "pred": crop.clone()})["pred"].shape
        torch.Size([1, 8, 8, 4])
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str = "image",
        background: float = -1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.background = background

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with each key on the file's grid."""
        result = dict(data)
        meta = result[self.image_key].meta
        affine = torch.as_tensor(meta["original_affine"])
        size = [int(side) for side in meta["spatial_shape"]][:3]
        resample = SpatialResample(mode="bilinear", padding_mode="zeros", align_corners=True)
        for key in self.key_iterator(result):
            moved = resample(result[key] - self.background, dst_affine=affine[:4, :4], spatial_size=size)
            result[key] = moved + self.background
            if isinstance(result[key], MetaTensor):
                result[key].affine = affine[:4, :4].to(torch.float64)
        return result
