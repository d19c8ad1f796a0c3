"""One grey scale for all volumes of a patient."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.transforms.utils_pytorch_numpy_unification import percentile
from monai.utils import ensure_tuple

from monai_mamba_gen.utils.errors import DataError

from .data_source import is_picture

__all__ = ["ScaleIntensityJointlyd"]


class ScaleIntensityJointlyd(MapTransform):
    """
    Map all keys to [-1, 1] by one linear function, so that grey values stay comparable between frames.

    The function takes the percentiles ``lower`` and ``upper`` of all voxels of the reference keys together to -1 and 1;
    what lies beyond is clipped. Reference keys that are missing are left out, so that a volume alone is scaled by its
    own percentiles. MetaTensors note the two percentiles in their metadata, for `RestoreIntensityd`.

    Args:
        keys: keys to scale.
        reference_keys: keys whose voxels give the percentiles.
        lower: percentile that becomes -1, from 0 on and below ``upper``.
        upper: percentile that becomes 1, up to 100.
        allow_missing_keys: whether missing keys are skipped.
        allow_constant: whether volumes without contrast pass; all their voxels become -1. What is noted is then
            [-1, 1], or the range of bytes for a picture (PNG, ...).

    Raises:
        DataError: at call, when both percentiles have the same value or one is not finite, naming file and key.
        KeyError: when no reference key is there.
        ValueError: when an argument is outside what is allowed.

    Example:
        >>> scale = ScaleIntensityJointlyd(["image", "target"], lower=0, upper=100)
        >>> scaled = scale({"image": torch.tensor([[0.0, 2.0]]), "target": torch.tensor([[1.0, 4.0]])})
        >>> scaled["image"].tolist(), scaled["target"].tolist()
        ([[-1.0, 0.0]], [[-0.5, 1.0]])
    """

    def __init__(
        self,
        keys: KeysCollection,
        reference_keys: Sequence[str] | str = ("image", "target"),
        lower: float = 0.5,
        upper: float = 99.5,
        allow_missing_keys: bool = False,
        allow_constant: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not 0 <= lower < upper <= 100:
            raise ValueError(f"lower and upper must be 0 <= lower < upper <= 100, got {lower!r} and {upper!r}")
        self.reference_keys = ensure_tuple(reference_keys)
        self.lower = lower
        self.upper = upper
        self.allow_constant = allow_constant

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with each key scaled, as float32."""
        result = dict(data)
        present = [key for key in self.reference_keys if key in result]
        if not present:
            raise KeyError(f"none of the reference keys {self.reference_keys} is there")
        voxels = torch.cat([torch.as_tensor(result[key]).flatten().float() for key in present])
        low, high = (float(percentile(voxels, share)) for share in (self.lower, self.upper))
        constant = not high > low
        if (constant and not self.allow_constant) or not torch.isfinite(voxels).all():
            source = getattr(result[present[0]], "meta", {}).get("filename_or_obj", "in memory")
            reason = (
                f"constant, the percentiles {self.lower:g} and {self.upper:g} are both {low:g}"
                if low == high and not self.allow_constant
                else "voxels are NaN or infinite"
            )
            raise DataError(f"file {source} (key {present[0]!r}): {reason}")
        for key in self.key_iterator(result):
            if constant:
                result[key] = result[key].float() * 0 - 1
            else:
                result[key] = ((result[key].float() - low) * (2 / (high - low)) - 1).clamp(-1, 1)
            if isinstance(result[key], MetaTensor):
                unknown = (0.0, 255.0) if is_picture(result[key]) else (-1.0, 1.0)
                result[key].meta["intensity_range"] = unknown if constant else (low, high)
        return result
