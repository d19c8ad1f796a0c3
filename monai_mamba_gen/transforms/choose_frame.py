"""One frame of a cine."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

__all__ = ["ChooseFramed"]


class ChooseFramed(MapTransform):
    """
    Keep one of the frames (T, H, W, D): the one that is the least like the first.

    That is end systole where the first frame is end diastole. MONAI Label cannot return several frames as NIfTI. A
    single frame, such as `CineInferer` makes where ``frame`` names one, stays as it is.

    Args:
        keys: keys to change.
        allow_missing_keys: whether missing keys are skipped.

    Example:
        >>> frames = torch.tensor([0.0, 1.0, 3.0, 2.0]).reshape(4, 1, 1, 1)
        >>> ChooseFramed("pred")({"pred": frames})["pred"].flatten()
        tensor([3.])
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with one frame (1, H, W, D) under each key."""
        result = dict(data)
        for key in self.key_iterator(result):
            frames = torch.as_tensor(result[key])
            chosen = int((frames - frames[:1]).abs().flatten(1).mean(1).argmax())
            result[key] = result[key][chosen : chosen + 1]
        return result
