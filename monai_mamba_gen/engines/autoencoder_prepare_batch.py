"""Batches of an autoencoder that serves several kinds of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.engines import PrepareBatch

from ..utils.plain_tensor import plain_tensor

__all__ = ["AutoencoderPrepareBatch"]


class AutoencoderPrepareBatch(PrepareBatch):
    """
    Stack the images of several keys along the batch, all of the first key and then all of the next.

    Row i of N is followed by row i + N of the same sample, which is how `IndexedMeanLoss` reads it.

    Args:
        keys: keys of the batch, (N, 1, H, W) each and of one size.

    Raises:
        ValueError: when there are no keys; when called, when a key is missing or sizes differ.

    Example:
        >>> batch = {"image": torch.zeros(2, 1, 8, 8), "target": torch.ones(2, 1, 8, 8)}
        >>> images, target = AutoencoderPrepareBatch()(batch)
        >>> images.shape, target is images
        (torch.Size([4, 1, 8, 8]), True)
    """

    def __init__(self, keys: Sequence[str] | str = ("image", "target")) -> None:
        self.keys = (keys,) if isinstance(keys, str) else tuple(keys)
        if not self.keys:
            raise ValueError("keys must name at least one image")

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``(images, images)``, (len(keys) * N, 1, H, W), as plain tensors on ``device``."""
        if missing := [key for key in self.keys if key not in batchdata]:
            raise ValueError(f"keys must be in the batch, {', '.join(missing)} is not: it has {', '.join(batchdata)}")
        images = [plain_tensor(batchdata[key]) for key in self.keys]
        if len({tuple(each.shape) for each in images}) > 1:
            sizes = ", ".join(f"{key} {tuple(each.shape)}" for key, each in zip(self.keys, images, strict=True))
            raise ValueError(f"keys must be of one size, got {sizes}")
        stacked = torch.cat(images).to(device=device, non_blocking=non_blocking, **kwargs)
        return stacked, stacked
