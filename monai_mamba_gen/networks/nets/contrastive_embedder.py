"""The contrastive stage of DiffMa's vision embedder."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["ContrastiveEmbedder"]


class ContrastiveEmbedder(nn.Module):
    """
    Embed two views of the same images, each by the mean of its tokens, for `InfoNCELoss`.

    DiffMa's code compares all tokens of an image, one beside the other, which no shift or flip may move; the mean is
    what the image network of DiffMa is given.

    Args:
        embedder: network from latents (N, C, h, w) to ``(soft_mask, tokens (N, T, E))``, such as `VisionEmbedder`. Its
            weights are what this stage is for: save ``embedder``, not the whole.

    Raises:
        ValueError: when called with an odd number of views.

    Example:
        >>> class Tokens(nn.Module):
        ...     def forward(self, latents):
        ...         return None, latents.flatten(2).transpose(1, 2)
        >>> first, second = ContrastiveEmbedder(Tokens())(torch.rand(6, 4, 8, 8))
        >>> first.shape, second.shape
        (torch.Size([3, 4]), torch.Size([3, 4]))
    """

    def __init__(self, embedder: nn.Module) -> None:
        super().__init__()
        self.embedder = embedder

    def forward(self, views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """views (2N, C, h, w), N first views and then N second ones -> two (N, E)."""
        if len(views) % 2:
            raise ValueError(f"views must be an even number, first ones and then second ones, got {len(views)}")
        _, tokens = self.embedder(views)
        first, second = tokens.mean(dim=1).chunk(2)
        return first, second
