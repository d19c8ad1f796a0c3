"""One value for everything outside the body."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from monai_mamba_gen.utils.errors import DataError

from .data_source import source_name

__all__ = ["MaskBackgroundd"]


class MaskBackgroundd(MapTransform):
    """
    Set everything outside a mask to one value: table, clothes and noise are nothing to learn.

    Args:
        keys: keys to change.
        mask_key: key of the mask, of the same shape; 0 outside.
        background: the value, on the scale that the keys have by then.
        allow_missing_keys: whether missing keys are skipped.

    Raises:
        DataError: at call, naming file and key, when the mask is missing or of another shape.

    Example:
        >>> data = {"image": torch.tensor([[0.5, 0.25]]), "mask": torch.tensor([[0, 1]])}
        >>> MaskBackgroundd("image")(data)["image"].tolist()
        [[-1.0, 0.25]]
    """

    def __init__(
        self,
        keys: KeysCollection,
        mask_key: str = "mask",
        background: float = -1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mask_key = mask_key
        self.background = background

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with the background of each key replaced."""
        result = dict(data)
        for key in self.key_iterator(result):
            where = f"file {source_name(result[key])} (key {key!r})"
            if self.mask_key not in result:
                raise DataError(f"{where}: has no mask, key {self.mask_key!r} is missing")
            outside = torch.as_tensor(result[self.mask_key]) <= 0.5
            if outside.shape != result[key].shape:
                raise DataError(f"{where}: shape {tuple(result[key].shape)}, its mask has {tuple(outside.shape)}")
            result[key] = result[key].masked_fill(outside, self.background)
        return result
