"""MONAI's resampling to a spacing, safe for keys that begin with another key's name."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.transforms import Spacingd

__all__ = ["SpacingEachd"]


class SpacingEachd(Spacingd):
    """
    `monai.transforms.Spacingd`, which sees one key at a time.

    MONAI 1.6.1 takes every entry whose name begins with ``<key>_`` for that key's metadata and updates it, where
    the key comes from a NIfTI. It fails with an AttributeError where ``target`` stands beside ``target_label``, or
    ``image`` beside the ``image_path`` of a MONAI Label request (no issue found; a test tells when this class is no
    longer needed). Volumes of one shape and affine, as `LoadCined` makes them, stay so. Arguments are MONAI's.

    Example:
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> volume = MetaTensor(torch.rand(1, 5, 5, 3), meta={"filename_or_obj": "a.nii"})
        >>> spacing = SpacingEachd("image", pixdim=(2.0, 2.0, 1.0))
        >>> spacing({"image": volume, "image_path": "a.nii"})["image"].shape
        torch.Size([1, 3, 3, 3])
    """

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> dict[Hashable, Any]:
        """Return ``data`` with each key resampled."""
        result = dict(data)
        present = list(self.key_iterator(result))
        given, self.allow_missing_keys = self.allow_missing_keys, True
        try:
            for key in present:
                result |= super().__call__({key: result[key]}, lazy)
        finally:
            self.allow_missing_keys = given
        return result
