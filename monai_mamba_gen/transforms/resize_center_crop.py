"""One in-plane size for every volume, without stretching."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import CenterSpatialCrop, MapTransform, Resize
from monai.utils import ensure_tuple_rep

__all__ = ["ResizeCenterCropd"]


class ResizeCenterCropd(MapTransform):
    """
    Scale the first two spatial axes until they just cover the target, then crop its centre.

    The aspect ratio in voxels is kept; further spatial axes and the channels are left as they are. Works on
    (C, H, W) and (C, H, W, D). The affine of a MetaTensor follows. The step is not recorded for inversion.

    Args:
        keys: keys to change.
        spatial_size: target (H, W), one number for a square.
        mode: interpolation of `monai.transforms.Resize`, one or one per key; "nearest" for labels. Where the image
            shrinks, every mode but "nearest", "nearest-exact" and "area" smooths against aliasing first.
        allow_missing_keys: whether missing keys are skipped.

    Raises:
        ValueError: when ``spatial_size`` is not one or two numbers above 0, or an image has fewer than two or more
            than three spatial axes.

    Example:
        >>> ResizeCenterCropd("image", 8)({"image": torch.rand(1, 12, 20, 3)})["image"].shape
        torch.Size([1, 8, 8, 3])
    """

    def __init__(
        self,
        keys: KeysCollection,
        spatial_size: Sequence[int] | int,
        mode: Sequence[str] | str = "bilinear",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        size = (spatial_size, spatial_size) if isinstance(spatial_size, int) else tuple(spatial_size)
        if len(size) != 2 or any(int(side) != side or side < 1 for side in size):
            raise ValueError(f"spatial_size must be one or two whole numbers above 0, got {spatial_size!r}")
        self.spatial_size = (int(size[0]), int(size[1]))
        self.mode = ensure_tuple_rep(mode, len(self.keys))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with each key resized and cropped, as float32."""
        result = dict(data)
        for key, mode in self.key_iterator(result, self.mode):
            result[key] = self._resize_and_crop(result[key], mode)
        return result

    def _resize_and_crop(self, image: torch.Tensor, mode: str) -> torch.Tensor:
        spatial = tuple(image.shape[1:])
        if len(spatial) not in (2, 3):
            raise ValueError(f"ResizeCenterCropd takes (C, H, W) or (C, H, W, D), got shape {tuple(image.shape)}")
        scale = max(target / size for target, size in zip(self.spatial_size, spatial, strict=False))
        covered = [max(target, round(size * scale)) for target, size in zip(self.spatial_size, spatial, strict=False)]
        smooth = scale < 1 and mode not in ("nearest", "nearest-exact", "area")
        resize = Resize((*covered, *spatial[2:]), mode=mode, anti_aliasing=smooth)
        crop = CenterSpatialCrop((*self.spatial_size, *(-1 for _ in spatial[2:])))
        with resize.trace_transform(False), crop.trace_transform(False):
            resized = resize(image)
            if smooth:
                response = _border_response(spatial[:2], tuple(covered), mode)
                resized = resized / response.reshape(1, *covered, *(1 for _ in spatial[2:]))
            return crop(resized)


@functools.lru_cache(maxsize=8)
def _border_response(spatial: tuple[int, ...], covered: tuple[int, ...], mode: str) -> torch.Tensor:
    """
    Return what MONAI's anti-aliased `Resize` makes of an image of ones, (1, H, W).

    Its Gaussian filter takes zeros beyond the border, which darkens the rim of every shrunken image; division by this
    undoes it (seen in MONAI 1.6.1, came with PR #4249, no issue found; a test tells when it is no longer needed).
    """
    return Resize(covered, mode=mode, anti_aliasing=True)(torch.ones(1, *spatial)).as_tensor()
