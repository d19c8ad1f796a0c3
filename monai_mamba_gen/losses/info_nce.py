"""A contrastive loss between two views of the same samples."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["InfoNCELoss"]


class InfoNCELoss(nn.Module):
    """
    InfoNCE (van den Oord et al. 2018, arXiv:1807.03748), symmetric as in SimCLR and CLIP.

    Each embedding is to tell its partner, the other view of the same sample, among all samples of the batch: the cross
    entropy of the cosine similarities over ``temperature``, averaged over both directions. log(N) where the views say
    nothing, 0 where all are told apart. Samples of other processes are not compared.

    DiffMa's code compares a batch with itself, so that partners are equal whatever the network does; two views need
    augmentation, see `ContrastivePrepareBatch`.

    Args:
        temperature: above 0; DiffMa's is 0.07.

    Raises:
        ValueError: when the temperature is not positive; when called, when shapes differ or there is one sample only.

    Example:
        >>> loss = InfoNCELoss(temperature=1.0)
        >>> round(loss((torch.ones(4, 8), torch.ones(4, 8))).item(), 4)  # log(4)
        1.3863
        >>> sorted(loss.parts)
        ['accuracy', 'loss']
    """

    def __init__(self, temperature: float = 0.07) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.temperature = temperature
        self._parts: dict[str, torch.Tensor] = {}

    @property
    def parts(self) -> dict[str, float]:
        """``"loss"`` of the last call, and ``"accuracy"``, how often the nearest of the other views is the partner."""
        return {name: float(value) for name, value in self._parts.items()}

    def forward(self, views: tuple[torch.Tensor, torch.Tensor], target: Any = None) -> torch.Tensor:
        """
        Return the loss, a scalar, in float32 also under autocast.

        Args:
            views: two tensors (N, E); rows of the same number belong together.
            target: not used; engines pass one.
        """
        first, second = views
        if first.shape != second.shape or first.ndim != 2:
            raise ValueError(f"views must be two (N, E), got {tuple(first.shape)} and {tuple(second.shape)}")
        if len(first) < 2:
            raise ValueError("views must hold at least 2 samples, got 1: there is nothing to tell it from")
        with torch.autocast(first.device.type, enabled=False):
            similarity = F.normalize(first.float(), dim=1) @ F.normalize(second.float(), dim=1).T / self.temperature
            own = torch.arange(len(first), device=first.device)
            loss = (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)) / 2
        accuracy = (similarity.detach().argmax(dim=1) == own).float().mean()
        self._parts = {"accuracy": accuracy, "loss": loss.detach()}
        return loss
