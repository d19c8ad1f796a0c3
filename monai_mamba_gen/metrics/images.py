"""Images as the metrics take them: rounded to 8 bits, known by the hash of their pixels."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from ..utils.distributed import get_rank, get_world_size
from ..utils.errors import DataError

__all__ = ["content_hash", "from_eight_bit", "image_keys", "load_images", "to_eight_bit"]


def to_eight_bit(images: torch.Tensor) -> torch.Tensor:
    """Map images in [-1, 1] to uint8, as an 8-bit PNG would hold them; values outside are clipped."""
    return ((images.detach().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()


def from_eight_bit(images: torch.Tensor) -> torch.Tensor:
    """Map uint8 images back to [-1, 1]."""
    return images.float() / 127.5 - 1


def image_keys(images: torch.Tensor) -> torch.Tensor:
    """Return a 63-bit hash of every image of a uint8 tensor (N, C, H, W), as int64 (N,)."""
    shape = repr(tuple(images.shape[1:])).encode()
    digests = [hashlib.blake2b(shape + image.numpy().tobytes(), digest_size=8).digest() for image in images]
    return torch.tensor([int.from_bytes(digest, "big") >> 1 for digest in digests], dtype=torch.int64)


def load_images(dataset: Any, name: str = "real") -> torch.Tensor:
    """
    Load this process's share of a set of images: every ``world_size``-th from ``rank`` on.

    Args:
        dataset: a sequence whose items hold ``"image"`` as (1, H, W) in [-1, 1], or an object with ``images()`` that
            returns (N, 1, H, W).
        name: what error messages call the set.

    Returns:
        uint8 tensor (n, 1, H, W); all images have one size.

    Raises:
        DataError: when the set is empty, or an image has another shape, is not finite or lies outside [-1, 1].
    """
    rank, world_size = get_rank(), get_world_size()
    if callable(getattr(dataset, "images", None)):
        every = torch.as_tensor(dataset.images())
        count, indices, items = len(every), range(rank, len(every), world_size), every[rank::world_size]
    else:
        count, indices = len(dataset), range(rank, len(dataset), world_size)
        items = (dataset[index] for index in indices)
    if count < world_size:
        raise DataError(f"{name} images: {count} found, at least {max(2, world_size)} needed")
    loaded = []
    for index, item in zip(indices, items, strict=True):
        if isinstance(item, dict):
            if "image" not in item:
                raise DataError(f"{name} images, item {index}: no key 'image', only {sorted(map(str, item))}")
            item = item["image"]
        image = torch.as_tensor(item.as_tensor() if hasattr(item, "as_tensor") else item).float()
        where = f"{name} images, item {index}, key 'image'"
        if image.ndim != 3 or image.shape[0] != 1:
            raise DataError(f"{where}: shape must be (1, H, W), got {tuple(image.shape)}")
        if not torch.isfinite(image).all():
            raise DataError(f"{where}: holds NaN or infinite values")
        if image.min() < -1.05 or image.max() > 1.05:
            low, high = float(image.min()), float(image.max())
            raise DataError(f"{where}: values must be in [-1, 1], got {low:.3g} to {high:.3g}")
        if loaded and loaded[0].shape != image.shape:
            raise DataError(f"{where}: shape {tuple(image.shape)} is not the first one's, {tuple(loaded[0].shape)}")
        loaded.append(to_eight_bit(image))
    return torch.stack(loaded)


def content_hash(keys: torch.Tensor) -> str:
    """Return a hash of a set of image hashes, whatever their order."""
    values = keys.sort().values
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()
