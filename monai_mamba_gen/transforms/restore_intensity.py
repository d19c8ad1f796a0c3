"""Back from a model's range to the grey values of the file."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_mamba_gen.utils.plain_tensor import plain_tensor

from .data_source import is_picture

__all__ = ["RestoreIntensityd"]


class RestoreIntensityd(MapTransform):
    """
    Map [-1, 1] to the grey values that `ScaleIntensityJointlyd` mapped there, so that a viewer shows both alike.

    Where the image comes from a picture (PNG, JPEG, ...), the result is rounded to the bytes such a file holds, 16 bits
    where the image has more than 255 levels.

    Args:
        keys: keys to change.
        image_key: the scaled image, a MetaTensor.
        allow_missing_keys: whether missing keys are skipped.

    Raises:
        KeyError: at call, when the image was not scaled by `ScaleIntensityJointlyd`.

    Example:
        >>> image = MetaTensor(torch.zeros(1, 2), meta={"intensity_range": (0.0, 10.0)})
        >>> RestoreIntensityd("pred")({"image": image, "pred": torch.tensor([[-1.0, 0.0, 1.0]])})["pred"].tolist()
        [[0.0, 5.0, 10.0]]
    """

    def __init__(self, keys: KeysCollection, image_key: str = "image", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with the values of each key mapped."""
        result = dict(data)
        image = result[self.image_key]
        low, high = (float(value) for value in image.meta["intensity_range"])
        for key in self.key_iterator(result):
            values = (result[key] + 1) * ((high - low) / 2) + low
            if is_picture(image):
                most, kind = (255, torch.uint8) if high <= 255 else (65535, torch.uint16)
                rounded = plain_tensor(values).round().clamp(0, most).to(kind)
                values = MetaTensor(rounded, affine=values.affine) if isinstance(values, MetaTensor) else rounded
            result[key] = values
        return result
