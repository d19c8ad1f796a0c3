"""Grey values of MR, whose units mean nothing, from percentiles within the body."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.transforms.utils_pytorch_numpy_unification import percentile

from monai_mamba_gen.utils.errors import DataError

from .data_source import source_name

__all__ = ["ScaleIntensityInMaskd"]


class ScaleIntensityInMaskd(MapTransform):
    """
    Map percentiles of the voxels within a mask to -1 and 1, and clip what lies beyond.

    Air around the body would shift percentiles of the whole volume with the field of view.

    Args:
        keys: keys to scale, each by its own percentiles.
        mask_key: key of the mask, of the same shape; 0 outside.
        lower: percentile that becomes -1, from 0 on and below ``upper``.
        upper: percentile that becomes 1, up to 100.
        allow_missing_keys: whether missing keys are skipped.

    Raises:
        DataError: at call, naming file and key, when the mask is missing, empty or of another shape, both percentiles
            have the same value, or a voxel is not finite.
        ValueError: when an argument is outside what is allowed.

    Example:
        >>> data = {"target": torch.tensor([[0.0, 2.0, 4.0]]), "mask": torch.tensor([[0, 1, 1]])}
        >>> ScaleIntensityInMaskd("target", lower=0, upper=100)(data)["target"].tolist()
        [[-1.0, -1.0, 1.0]]
    """

    def __init__(
        self,
        keys: KeysCollection,
        mask_key: str = "mask",
        lower: float = 0.5,
        upper: float = 99.5,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not 0 <= lower < upper <= 100:
            raise ValueError(f"lower and upper must be 0 <= lower < upper <= 100, got {lower!r} and {upper!r}")
        self.mask_key = mask_key
        self.lower = lower
        self.upper = upper

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with each key scaled, as float32."""
        result = dict(data)
        for key in self.key_iterator(result):
            where = f"file {source_name(result[key])} (key {key!r})"
            if self.mask_key not in result:
                raise DataError(f"{where}: has no mask, key {self.mask_key!r} is missing")
            volume = torch.as_tensor(result[key]).float()
            inside = torch.as_tensor(result[self.mask_key]) > 0.5
            if inside.shape != volume.shape:
                raise DataError(f"{where}: shape {tuple(volume.shape)}, its mask has {tuple(inside.shape)}")
            if not inside.any():
                raise DataError(f"{where}: its mask is empty")
            if not torch.isfinite(volume).all():
                raise DataError(f"{where}: voxels are NaN or infinite")
            low, high = (float(percentile(volume[inside], share)) for share in (self.lower, self.upper))
            if not high > low:
                raise DataError(
                    f"{where}: constant within the mask, the percentiles {self.lower:g} and {self.upper:g} are both "
                    f"{low:g}"
                )
            result[key] = ((result[key].float() - low) * (2 / (high - low)) - 1).clamp(-1, 1)
        return result
