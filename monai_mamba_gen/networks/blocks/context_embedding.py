"""One vector an image, learned with the network: what stands in for a pretrained image encoder."""

from __future__ import annotations

import torch
from torch import nn

from .convolution import group_norm

__all__ = ["ContextEmbedding"]


class ContextEmbedding(nn.Module):
    """
    Embed an image into one vector: strided convolutions, the mean over all cells, a linear layer.

    Works offline and on any number of channels, where the published DiffMa asks BiomedCLIP.

    Args:
        in_channels: channels of the image or latent.
        embed_dim: size of the vector.
        channels: channels of the convolutions, each of which halves the resolution.

    Example:
        >>> ContextEmbedding(4, 16)(torch.randn(2, 4, 7, 1)).shape
        torch.Size([2, 16])
    """

    def __init__(self, in_channels: int, embed_dim: int, channels: tuple[int, ...] = (32, 64, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((in_channels, *channels), channels, strict=False):
            layers += [nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1), group_norm(after), nn.SiLU()]
        self.features = nn.Sequential(*layers)
        self.projection = nn.Linear(channels[-1], embed_dim)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, embed_dim)."""
        return self.projection(self.features(image).mean(dim=(2, 3)))
