"""A number a sample, such as the diffusion time, as a vector."""

from __future__ import annotations

import torch
from monai.networks.nets.diffusion_model_unet import get_timestep_embedding
from torch import nn

__all__ = ["SinusoidEmbedding"]


class SinusoidEmbedding(nn.Module):
    """
    Embed a number by its sinusoids (Ho et al. 2020) and a two-layer perceptron.

    Args:
        embedding_channels: size of the vector.
        channels: number of sinusoids, cosines first.

    Example:
        >>> SinusoidEmbedding(16)(torch.tensor([3.0, 7.0])).shape
        torch.Size([2, 16])
    """

    def __init__(self, embedding_channels: int, channels: int = 256) -> None:
        super().__init__()
        self.channels = channels
        self.mlp = nn.Sequential(
            nn.Linear(channels, embedding_channels), nn.SiLU(), nn.Linear(embedding_channels, embedding_channels)
        )

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """values (N,), integer or float -> (N, embedding_channels)."""
        sinusoids = get_timestep_embedding(values.float(), self.channels)
        return self.mlp(sinusoids.to(self.mlp[0].weight.dtype))
