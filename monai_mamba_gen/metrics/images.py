"""Images as the metrics take them: rounded to 8 bits, known by the hash of their pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..utils.distributed import get_rank, get_world_size
from ..utils.errors import DataError

__all__ = ["content_hash", "from_eight_bit", "image_batches", "image_keys", "load_images", "to_eight_bit"]


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


def _reader(dataset: Any) -> tuple[int, Callable[[int], Any]]:
    """Return the number of images and how one of them is taken, without what is drawn at random where possible."""
    if callable(getattr(dataset, "image", None)):
        return len(dataset), dataset.image
    if callable(getattr(dataset, "images", None)):
        every = torch.as_tensor(dataset.images())
        return len(every), every.__getitem__
    return len(dataset), dataset.__getitem__


def _checked(item: Any, where: str) -> torch.Tensor:
    """Return an item's image as uint8 (1, H, W)."""
    if isinstance(item, dict):
        if "image" not in item:
            raise DataError(f"{where}: no key 'image', only {sorted(map(str, item))}")
        item = item["image"]
    image = torch.as_tensor(item.as_tensor() if hasattr(item, "as_tensor") else item).float()
    where = f"{where}, key 'image'"
    if image.ndim != 3 or image.shape[0] != 1:
        raise DataError(f"{where}: shape must be (1, H, W), got {tuple(image.shape)}")
    if not torch.isfinite(image).all():
        raise DataError(f"{where}: holds NaN or infinite values")
    if image.min() < -1.05 or image.max() > 1.05:
        low, high = float(image.min()), float(image.max())
        raise DataError(f"{where}: values must be in [-1, 1], got {low:.3g} to {high:.3g}")
    return to_eight_bit(image)


def image_batches(dataset: Any, name: str = "real", batch_size: int = 32) -> Iterator[torch.Tensor]:
    """
    Yield this process's share of a set of images, batch by batch, so that they are never all in memory.

    The batches are cut before they are dealt to the processes: they are the same for any number of processes.

    Args:
        dataset: a sequence whose items hold ``"image"`` as (1, H, W) in [-1, 1]; or an object with a length and
            ``image(index)``, which returns such an image; or one with ``images()``, which returns (N, 1, H, W) at once.
        name: what error messages call the set.
        batch_size: images in a batch.

    Yields:
        uint8 tensors (n, 1, H, W); all images have one size.

    Raises:
        DataError: when the set is empty, or an image has another shape, is not finite or lies outside [-1, 1].

    Example:
        >>> [len(batch) for batch in image_batches([{"image": torch.zeros(1, 8, 8)}] * 5, batch_size=3)]
        [3, 2]
    """
    count, take = _reader(dataset)
    if count < 1:
        raise DataError(f"{name} images: {count} found, at least 2 needed")
    shape = None
    for start in range(get_rank() * batch_size, count, get_world_size() * batch_size):
        batch = []
        for index in range(start, min(start + batch_size, count)):
            where = f"{name} images, item {index}"
            image = _checked(take(index), where)
            shape = image.shape if shape is None else shape
            if image.shape != shape:
                raise DataError(
                    f"{where}, key 'image': shape {tuple(image.shape)} is not the first one's, {tuple(shape)}"
                )
            batch.append(image)
        yield torch.stack(batch)


def load_images(dataset: Any, name: str = "real", batch_size: int = 32) -> torch.Tensor:
    """
    Load this process's share of a set of images at once: what `image_batches` yields, as one tensor.

    Args:
        dataset: as of `image_batches`.
        name: likewise.
        batch_size: likewise.

    Returns:
        uint8 tensor (n, 1, H, W).

    Raises:
        DataError: as of `image_batches`, or when no batch is left for this process.
    """
    batches = list(image_batches(dataset, name, batch_size))
    if not batches:
        raise DataError(f"{name} images: {len(dataset)} in batches of {batch_size} leave none for process {get_rank()}")
    return torch.cat(batches)


def content_hash(keys: torch.Tensor) -> str:
    """Return a hash of a set of image hashes, whatever their order."""
    values = keys.sort().values
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()
