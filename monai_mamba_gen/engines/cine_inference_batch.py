"""What an evaluator passes to `CineInferer` from a batch of volumes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.engines import PrepareBatch

from ..utils.plain_tensor import plain_tensor

__all__ = ["CineInferenceBatch"]


class CineInferenceBatch(PrepareBatch):
    """
    Pass the ED volume as input, and ES volume, seeds and phases, where the batch has them, as keywords.

    Args:
        true_phases: whether the phases of a batch, those of its true frames, are asked for, with 0 (ED) before and
            1 (ES) behind them; otherwise the inferer chooses the phases.

    Example:
        >>> batch = {"image": torch.zeros(1, 1, 8, 8, 4), "seed": torch.tensor([3])}
        >>> _, _, _, kwargs = CineInferenceBatch()(batch)
        >>> kwargs
        {'seeds': tensor([3])}
    """

    def __init__(self, true_phases: bool = False) -> None:
        self.true_phases = true_phases

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, tuple, dict[str, Any]]:
        """Return ``(ED, ES or None, (), keywords)``; ED keeps its geometry."""
        inputs = batchdata["image"].to(device=device, non_blocking=non_blocking, **kwargs)
        keywords: dict[str, Any] = {}
        target = batchdata.get("target")
        if target is not None:
            target = keywords["target"] = target.to(device=device, non_blocking=non_blocking, **kwargs)
        if "seed" in batchdata:
            keywords["seeds"] = torch.as_tensor(batchdata["seed"])
        if self.true_phases:
            keywords["phases"] = self._with_ends(batchdata.get("phases"), len(inputs)).to(inputs.device)
        return inputs, target, (), keywords

    @staticmethod
    def _with_ends(phases: torch.Tensor | None, count: int) -> torch.Tensor:
        ends = torch.tensor([[0.0], [1.0]]).expand(2, count).reshape(2, count, 1)
        middle = [] if phases is None else [plain_tensor(phases).cpu().float().reshape(count, -1)]
        return torch.cat([ends[0], *middle, ends[1]], dim=1)
