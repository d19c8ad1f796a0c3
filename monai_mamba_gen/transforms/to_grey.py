"""Grey pictures that are stored as colour."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_mamba_gen.utils.errors import DataError

from .data_source import source_name

__all__ = ["ToGreyd"]

_NO_GREY_MODES = ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV")  # Pillow's, whose channels are no grey values


class ToGreyd(MapTransform):
    """
    Make one channel of a picture whose colour channels are all equal, as some hundred files of ChestX-ray14 are.

    Goes between ``EnsureChannelFirstd`` and `CheckVolumed`. Of a picture (C, X, Y) with two or four channels, the last
    is transparency and is dropped; the colours must then be equal. Volumes (C, X, Y, Z) and images with one or more
    than four channels stay as they are.

    Args:
        keys: keys to change.
        tolerance: largest difference between equal channels, in grey levels; JPEG rounds.
        allow_missing_keys: whether missing keys are skipped.

    Raises:
        DataError: at call, when a picture is in colour, or its values are numbers of a palette; names file and key.

    Example:
        >>> picture = torch.rand(1, 4, 4).repeat(3, 1, 1)
        >>> ToGreyd("image")({"image": picture})["image"].shape
        torch.Size([1, 4, 4])
    """

    def __init__(self, keys: KeysCollection, tolerance: float = 2.0, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.tolerance = tolerance

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with each picture as one channel."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            if image.ndim != 3 or len(image) > 4:
                continue
            problem = self._problem(image)
            if problem:
                raise DataError(f"file {source_name(image)} (key {key!r}): {problem}; a greyscale picture is expected")
            if len(image) > 1:
                result[key] = image[:1]
        return result

    def _problem(self, image: torch.Tensor) -> str | None:
        mode = str(image.meta.get("mode", "")) if isinstance(image, MetaTensor) else ""
        if mode in _NO_GREY_MODES:
            return f"a picture of Pillow's mode {mode!r}"
        colours = torch.as_tensor(image)[: 3 if len(image) > 2 else 1]
        spread = float((colours.amax(0) - colours.amin(0)).max())
        return f"a colour picture, its channels differ by up to {spread:g}" if spread > self.tolerance else None
