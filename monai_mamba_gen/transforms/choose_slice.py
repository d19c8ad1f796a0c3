"""One slice of a case for a two-dimensional model, and the way back to the grid of the case."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from monai.transforms import MapTransform

from monai_mamba_gen.utils.errors import DataError

from .data_source import is_picture, source_name
from .restore_grid import restore_volume

__all__ = ["ChooseSliced", "RestoreSliced"]

_CHOSEN = "chosen_slice"


class ChooseSliced(MapTransform):
    """
    Take one slice of a volume, along its last axis as in training; an image of two dimensions stays as it is.

    Goes behind what scales and resizes the whole volume. The affine of a MetaTensor follows, and its metadata note the
    slice for `RestoreSliced`.

    Args:
        keys: keys to change, (1, H, W) or (1, H, W, D).
        index: number of the slice, from 0; -1 is the middle one.
        allow_missing_keys: whether missing keys are skipped.

    Raises:
        DataError: at call, naming file and key: several channels or frames, or no such slice.
        ValueError: when ``index`` is no whole number from -1 on.

    Example:
        >>> ChooseSliced("image")({"image": torch.rand(1, 8, 8, 5)})["image"].shape
        torch.Size([1, 8, 8])
    """

    def __init__(self, keys: KeysCollection, index: int = -1, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if isinstance(index, bool) or not isinstance(index, (int, float)) or index < -1 or index != int(index):
            raise ValueError(f"slice must be a whole number from 0 on, or -1 for the middle one, got {index!r}")
        self.index = int(index)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with one slice (1, H, W) under each key."""
        result = dict(data)
        for key in self.key_iterator(result):
            volume = result[key]
            where = f"file {source_name(volume)} (key {key!r})"
            if volume.ndim not in (3, 4) or volume.shape[0] != 1:
                raise DataError(
                    f"{where}: {tuple(volume.shape)} with the channels first, one channel or frame of an image (H, W) "
                    "or a volume (H, W, D) expected"
                )
            if volume.ndim == 3:
                continue
            depth = volume.shape[-1]
            if self.index >= depth:
                raise DataError(f"{where}: slice {self.index} is asked for, there are 0 to {depth - 1}")
            index = depth // 2 if self.index < 0 else self.index
            result[key] = volume[..., index]
            if isinstance(volume, MetaTensor):
                affine = _moved(volume.affine, index)
                result[key] = MetaTensor(volume.as_tensor()[..., index], meta={**volume.meta, _CHOSEN: index})
                result[key].affine = affine
        return result


class RestoreSliced(MapTransform):
    """
    Put a slice made by a model where `ChooseSliced` took it from: on the grid of the file.

    `ResizeCenterCropd` is undone by way of the affines, linearly. The result of a volume is a volume of its shape with
    ``background`` in the other slices and where the model saw nothing. An image of two dimensions that has a geometry
    (NIfTI, ...) gives (1, X, Y, 1), as MONAI Label writes no geometry of two-dimensional results; a picture (PNG, ...)
    gives (X, Y). The image's metadata are brought in line with the result, since MONAI Label compares with them.

    Args:
        keys: keys to restore, (1, h, w).
        image_key: the preprocessed image, a MetaTensor whose metadata still know the file's ``original_affine`` and
            ``spatial_shape``.
        background: value of what was not made.
        allow_missing_keys: whether missing keys are skipped.

    Example:
        >>> meta = {"original_affine": torch.eye(4), "spatial_shape": (8, 8, 5)}
        >>> data = ChooseSliced("image", 3)({"image": MetaTensor(torch.rand(1, 8, 8, 5), torch.eye(4), meta)})
        >>> RestoreSliced("pred")({**data, "pred": data["image"]})["pred"].shape
        torch.Size([1, 8, 8, 5])
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
        image = result[self.image_key]
        shape = [int(side) for side in image.meta["spatial_shape"]][:3]
        flat, index = len(shape) == 2, int(image.meta.get(_CHOSEN, 0))
        shape = [*shape, 1] if flat else shape
        affine = _square(image.meta.get("original_affine", image.affine))
        for key in self.key_iterator(result):
            made, known = restore_volume(
                result[key][..., None], _square(image.affine), _moved(affine, index), (*shape[:2], 1)
            )
            volume = torch.full((1, *shape), float(self.background))
            volume[..., index] = torch.where(known, made, self.background)[..., 0]
            result[key] = MetaTensor(volume[0, ..., 0] if is_picture(image) else volume, affine=affine)
        if not is_picture(image):
            meta = {**image.meta, "spatial_shape": tuple(shape), "original_affine": affine.numpy()}
            result[self.image_key] = MetaTensor(image.as_tensor(), meta=meta)
        return result


def _square(affine: Any) -> torch.Tensor:
    """Return an affine of any number of axes as (4, 4)."""
    return torch.as_tensor(to_affine_nd(3, torch.as_tensor(affine).detach().cpu().double().numpy()))


def _moved(affine: Any, index: int) -> torch.Tensor:
    """Return the affine of a slice: that of its volume, with the slice's own origin."""
    matrix = _square(affine).clone()
    matrix[:3, 3] += index * matrix[:3, 2]
    return matrix
