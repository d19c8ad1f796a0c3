"""What a translation model must beat: the source itself, or its grey values mapped to the target's mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from torch import nn

from ..utils import plain_tensor

__all__ = ["IntensityBaseline"]

_MODES = ("identity", "map")


class IntensityBaseline(nn.Module):
    """
    Translate each voxel by its own value alone; takes the place of `TranslationInferer` in an evaluator.

    ``"identity"`` returns the source. ``"map"`` returns the mean of the target over all training voxels of like source
    value, which no other function of the value alone beats in squared error; what a model adds to that, it has from
    the surroundings. The network is not asked.

    After a call ``result`` is as `TranslationInferer`'s, with ``"std"`` None and ``"seeds"`` an empty list for each
    volume.

    Args:
        mode: ``"identity"`` or ``"map"``; the latter is to be `fit` first.
        num_bins: classes of source values from -1 to 1, all of one width.

    Raises:
        ValueError: when an argument is out of range, or a map is used before `fit`.

    Example:
        >>> source = torch.tensor([-0.5, 0.5]).reshape(1, 1, 2)
        >>> baseline = IntensityBaseline("map").fit([{"image": source, "target": -source}])
        >>> baseline(source[None])
        tensor([[[[ 0.5000, -0.5000]]]])
    """

    table: torch.Tensor

    def __init__(self, mode: str = "identity", num_bins: int = 256) -> None:
        super().__init__()
        if mode not in _MODES:
            raise ValueError(f"mode must be one of {_MODES}, got {mode!r}")
        if isinstance(num_bins, bool) or not isinstance(num_bins, int) or num_bins < 2:
            raise ValueError(f"num_bins must be an integer of at least 2, got {num_bins!r}")
        self.mode = mode
        self.num_bins = num_bins
        self.register_buffer("table", torch.full((num_bins,), torch.nan))
        self.result: dict[str, Any] = {}

    def describe(self) -> dict[str, Any]:
        """Return the JSON-like settings of the baseline."""
        return {"sampler": type(self).__name__, "mode": self.mode, "num_bins": self.num_bins}

    def _bins(self, values: torch.Tensor) -> torch.Tensor:
        return ((values.clamp(-1, 1) + 1) * (self.num_bins / 2)).long().clamp(max=self.num_bins - 1)

    def fit(
        self,
        dataset: Sequence[Mapping[str, Any]],
        image_key: str = "image",
        target_key: str = "target",
        mask_key: str = "mask",
    ) -> IntensityBaseline:
        """
        Work out the mean target of each class of source values; classes without a voxel take it from their neighbours.

        Args:
            dataset: items with source and target of one shape in [-1, 1] and, where they have a mask, voxels above 0 in
                it, which alone count. Random transforms are applied as anywhere.
            image_key: key of the source.
            target_key: key of the target.
            mask_key: key of the mask.

        Returns:
            The baseline itself.

        Raises:
            ValueError: when no item has a voxel inside its mask.
        """
        sums, counts = torch.zeros(2, self.num_bins, dtype=torch.float64).unbind()
        for number in range(len(dataset)):
            item = dataset[number]
            source, target = (
                plain_tensor(torch.as_tensor(item[key])).flatten().cpu() for key in (image_key, target_key)
            )
            if item.get(mask_key) is not None:
                inside = plain_tensor(torch.as_tensor(item[mask_key])).flatten().cpu() > 0
                source, target = source[inside], target[inside]
            bins = self._bins(source)
            sums += torch.bincount(bins, target.double(), self.num_bins)
            counts += torch.bincount(bins, minlength=self.num_bins)
        filled = counts.nonzero().flatten()
        if not len(filled):
            raise ValueError(f"dataset of {len(dataset)} items has no voxel inside a mask")
        self.table.copy_(self._interpolated(filled, sums[filled] / counts[filled]))
        return self

    def _interpolated(self, filled: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
        """Return a value for every class: linear between filled ones, and that of the nearest beyond the ends."""
        classes = torch.arange(self.num_bins)
        above = torch.searchsorted(filled, classes).clamp(max=len(filled) - 1)
        below = (torch.searchsorted(filled, classes, right=True) - 1).clamp(min=0)
        gap = (filled[above] - filled[below]).clamp(min=1)
        weight = ((classes - filled[below]) / gap).clamp(0, 1).double()
        return torch.lerp(means[below], means[above], weight)

    def forward(
        self,
        inputs: torch.Tensor,
        network: nn.Module | None = None,
        mask: torch.Tensor | None = None,
        seeds: Sequence[int] | torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Translate volumes (N, 1, H, W[, D]) in [-1, 1]; outside the mask the prediction is -1.

        Raises:
            ValueError: when the mask has another shape, or a map has not been `fit`.
        """
        if mask is not None and mask.shape != inputs.shape:
            raise ValueError(f"mask must have the inputs' shape {tuple(inputs.shape)}, got {tuple(mask.shape)}")
        source = plain_tensor(inputs)
        pred = source.clone() if source.is_floating_point() else source.float()
        if self.mode == "map":
            if not bool(self.table.isfinite().all()):
                raise ValueError("IntensityBaseline('map') must be fit on training slices first")
            pred = self.table.to(pred)[self._bins(pred)]
        inside = None if mask is None else (plain_tensor(mask) > 0).to(pred.device)
        pred = pred if inside is None else pred.masked_fill(~inside, -1.0)
        self.result = {"pred": pred, "std": None, "seeds": [[] for _ in range(len(inputs))], "mask": inside}
        return MetaTensor(pred).copy_meta_from(inputs) if isinstance(inputs, MetaTensor) else pred
