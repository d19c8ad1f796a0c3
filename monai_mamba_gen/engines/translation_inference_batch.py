"""What an evaluator passes to `TranslationInferer` from a batch of volumes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.engines import PrepareBatch

__all__ = ["TranslationInferenceBatch"]


class TranslationInferenceBatch(PrepareBatch):
    """
    Pass the source volume as input, its mask and seed, where the batch has them, as keywords.

    Args:
        image_key: key of the source, (N, 1, H, W, D).
        target_key: key of the true image; the evaluator's label is None where the batch has none.

    Raises:
        ValueError: when a batch lacks the source.

    Example:
        >>> volume = torch.zeros(1, 1, 8, 8, 4)
        >>> _, _, _, kwargs = TranslationInferenceBatch()({"image": volume, "mask": volume, "seed": torch.tensor([3])})
        >>> sorted(kwargs)
        ['mask', 'seeds']
    """

    def __init__(self, image_key: str = "image", target_key: str = "target") -> None:
        self.image_key = image_key
        self.target_key = target_key

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, tuple, dict[str, Any]]:
        """Return ``(source, target or None, (), keywords)``; volumes keep their geometry."""
        if self.image_key not in batchdata:
            raise ValueError(f"batch must have {self.image_key!r}, it has {sorted(batchdata)}")

        def moved(key: str) -> torch.Tensor | None:
            value = batchdata.get(key)
            return None if value is None else value.to(device=device, non_blocking=non_blocking, **kwargs)

        keywords: dict[str, Any] = {}
        if (mask := moved("mask")) is not None:
            keywords["mask"] = mask
        if batchdata.get("seed") is not None:
            keywords["seeds"] = torch.as_tensor(batchdata["seed"])
        return moved(self.image_key), moved(self.target_key), (), keywords
