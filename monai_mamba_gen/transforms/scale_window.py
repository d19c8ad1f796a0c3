"""A window of CT numbers as grey values."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform, ScaleIntensityRange

from monai_mamba_gen.utils.errors import DataError

from .data_source import source_name

__all__ = ["ScaleIntensityWindowd"]


class ScaleIntensityWindowd(MapTransform):
    """
    Map a window to [-1, 1] and clip what lies beyond, by MONAI's ``ScaleIntensityRange``; notice a wrong window.

    Args:
        keys: keys to scale.
        window: value that becomes -1 and value that becomes 1, in HU for CT.
        allow_missing_keys: whether missing keys are skipped.

    Raises:
        DataError: at call, when all voxels come out equal, naming file, key, and the values that are there.
        ValueError: when the window is not two numbers, the lower first.

    Example:
        >>> import torch
        >>> ScaleIntensityWindowd("image")({"image": torch.tensor([[-2000.0, 0.0, 500.0]])})["image"].tolist()
        [[-1.0, 0.0, 0.5]]
    """

    def __init__(
        self, keys: KeysCollection, window: Sequence[float] = (-1000.0, 1000.0), allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if len(window) != 2 or not window[0] < window[1]:
            raise ValueError(f"window must be two numbers, the lower first, got {window!r}")
        self.window = tuple(float(edge) for edge in window)
        self.scale = ScaleIntensityRange(*self.window, b_min=-1.0, b_max=1.0, clip=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with each key scaled, as float32."""
        result = dict(data)
        for key in self.key_iterator(result):
            scaled = self.scale(result[key])
            if not scaled.min() < scaled.max():
                low, high = float(result[key].min()), float(result[key].max())
                raise DataError(
                    f"file {source_name(result[key])} (key {key!r}): nothing to see in the window "
                    f"{self.window[0]:g} to {self.window[1]:g}, the values are {low:g} to {high:g}; "
                    "is the window wrong, or is this no CT in HU?"
                )
            result[key] = scaled
        return result
