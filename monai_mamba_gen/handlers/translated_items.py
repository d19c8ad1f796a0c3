"""What a translation inferer made, sample by sample, beside the batch it made it from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd

from ..utils import DataError, middle_slice, translation_picture
from .synthetic_folder import batch_items, item_path

__all__ = ["TranslatedItem", "as_3d", "draw_item", "image_keys_of", "to_output_range", "translated_items"]


def image_keys_of(inferer: Any, image_key: str | None, target_key: str | None) -> tuple[str, str, str]:
    """Return direction and the keys of source and true image: CT under "image" and MR under "target" by default."""
    direction = getattr(inferer, "direction", "ct2mr")
    source, true = ("image", "target") if direction == "ct2mr" else ("target", "image")
    return direction, image_key or source, target_key or true


def to_output_range(volume: torch.Tensor, output_range: Sequence[float]) -> torch.Tensor:
    """Return values of the model, [-1, 1], in the units of its files, in double precision."""
    low, high = output_range
    return low + (volume.double() + 1) * ((high - low) / 2)


def translated_items(
    batch: Any, result: Mapping[str, Any] | None, image_key: str, target_key: str
) -> Iterator[TranslatedItem]:
    """
    Give each sample of a batch, decollated or not, with what was made of it.

    Raises:
        DataError: when their numbers differ, nothing was made, or a sample names no patient.
    """
    if not result:
        raise DataError("the inferer has made nothing yet: is it the evaluator's own?")
    items = batch_items(batch)
    if len(items) != len(result["pred"]):
        raise DataError(f"the batch has {len(items)} samples, the inferer made {len(result['pred'])} volumes")
    for index, item in enumerate(items):
        made = {key: None if result.get(key) is None else result[key][index] for key in ("pred", "std", "mask")}
        seeds = result.get("seeds")
        yield TranslatedItem(item, made, [] if seeds is None else seeds[index], image_key, target_key)


class TranslatedItem:
    """
    One sample: volumes (H, W, D), or images (H, W), as plain tensors where the prediction is, and their geometry.

    Args:
        item: the sample of the batch.
        made: ``pred`` (1, H, W[, D]), ``std`` and ``mask`` of that shape or None.
        seeds: the seeds of the averaged samples.
        image_key: key of the source.
        target_key: key of the true image.

    Raises:
        DataError: naming patient and key, when something is missing, does not fit or is not finite.
    """

    def __init__(
        self, item: Mapping[str, Any], made: Mapping[str, Any], seeds: Any, image_key: str, target_key: str
    ) -> None:
        if item.get("patient") is None:
            raise DataError("the batch names no 'patient'")
        self.item, self.image_key, self.target_key = item, image_key, target_key
        patient = item["patient"]
        self.patient = str(patient.item() if isinstance(patient, torch.Tensor) else patient)
        self.seeds = [int(seed) for seed in seeds]
        self.pred = _plain(made["pred"])[0].float()
        if not bool(torch.isfinite(self.pred).all()):
            raise self.error("the synthetic volume holds NaN or infinite values")
        self.std = None if made["std"] is None else self._fitting("the standard deviation", made["std"]).float()
        own = item.get("mask")
        mask = own if own is not None else made["mask"]
        self.mask = None if mask is None else self._fitting("'mask'", mask) > 0

    def error(self, message: str) -> DataError:
        """Return an error that names the patient."""
        return DataError(f"patient {self.patient}: {message}")

    def _fitting(self, name: str, value: Any) -> torch.Tensor:
        value = _plain(value)[0].to(self.pred.device)
        if value.shape != self.pred.shape:
            raise self.error(f"{name} has shape {tuple(value.shape)}, the synthetic volume {tuple(self.pred.shape)}")
        return value

    def volume(self, key: str, required: bool = True) -> torch.Tensor | None:
        """Return an entry of the batch, or None."""
        if self.item.get(key) is None:
            if required:
                raise self.error(f"no {key!r} in the batch")
            return None
        return self._fitting(repr(key), self.item[key]).float()

    @property
    def geometry(self) -> MetaTensor | None:
        """The source, or else the true image, where it is a MetaTensor."""
        found = (self.item.get(key) for key in (self.image_key, self.target_key))
        return next((value for value in found if isinstance(value, MetaTensor)), None)

    @property
    def affine(self) -> torch.Tensor | None:
        """Voxel index of the model's grid to mm, (4, 4)."""
        return None if self.geometry is None else as_3d(self.geometry.affine)

    def path(self, key: str) -> str | None:
        """Return the file of an entry, see `item_path`."""
        return item_path(self.item, key)


def draw_item(item: TranslatedItem, direction: str) -> np.ndarray:
    """Return the picture of the middle slice inside the mask."""
    mask = torch.ones_like(item.pred) if item.mask is None else item.mask
    return translation_picture(
        item.volume(item.image_key),
        item.volume(item.target_key, required=False),
        item.pred,
        item.std,
        middle_slice(mask) if mask.ndim == 3 else None,
        mask=mask,
        affine=item.affine,
        direction=direction,
    )


def as_3d(affine: Any) -> torch.Tensor:
    """Return an affine as (4, 4), double precision on the CPU."""
    return torch.as_tensor(to_affine_nd(3, torch.as_tensor(affine).detach().cpu().double().numpy()))


def _plain(tensor: Any) -> torch.Tensor:
    return torch.as_tensor(tensor).detach().as_subclass(torch.Tensor)
