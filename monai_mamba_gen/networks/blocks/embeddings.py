"""Embeddings of the diffusion time and of class labels, and the shift and scale they become inside a block."""

from __future__ import annotations

import torch
from monai.networks.nets.diffusion_model_unet import get_timestep_embedding
from torch import nn

__all__ = ["ConditionEmbedding", "Modulation"]


class ConditionEmbedding(nn.Module):
    """
    Embed diffusion time and, optionally, class labels into one vector a sample.

    Sinusoids of the time (Ho et al. 2020) pass through a two-layer perceptron; a learned vector a class is added. A
    label below zero means "no class" and has a vector of its own, which is what classifier-free guidance needs.

    Args:
        channels: number of sinusoids.
        embedding_channels: size of the vector.
        num_class_embeds: number of classes; None for an unconditional network.

    Example:
        >>> ConditionEmbedding(32, 128)(torch.tensor([3.0, 7.0])).shape
        torch.Size([2, 128])
    """

    def __init__(self, channels: int, embedding_channels: int, num_class_embeds: int | None = None) -> None:
        super().__init__()
        self.channels = channels
        self.num_class_embeds = num_class_embeds
        self.time_mlp = nn.Sequential(
            nn.Linear(channels, embedding_channels), nn.SiLU(), nn.Linear(embedding_channels, embedding_channels)
        )
        self.class_embedding = None
        if num_class_embeds is not None:
            self.class_embedding = nn.Embedding(num_class_embeds + 1, embedding_channels)  # the last row: no class

    def forward(self, timesteps: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            timesteps: (N,), integer or float.
            labels: (N,) integer; below zero or None: no class.

        Returns:
            (N, embedding_channels).

        Raises:
            ValueError: when a label is not below ``num_class_embeds``, or labels reach a network without classes.
        """
        weight = self.time_mlp[0].weight
        embedding = self.time_mlp(get_timestep_embedding(timesteps.float(), self.channels).to(weight.dtype))
        if self.class_embedding is None:
            if labels is not None:
                raise ValueError("class labels were given, but the network has num_class_embeds=None")
            return embedding
        no_class = self.class_embedding.num_embeddings - 1
        if labels is None:
            labels = timesteps.new_full(timesteps.shape, -1, dtype=torch.long)
        elif bool((labels >= no_class).any()):
            raise ValueError(f"class labels must be below num_class_embeds={no_class}, got {int(labels.max())}")
        return embedding + self.class_embedding(torch.where(labels < 0, no_class, labels))


class Modulation(nn.Module):
    """
    Shift and scale normalised features by the condition: ``x * (1 + scale) + shift``.

    Args:
        embedding_channels: size of the condition vector.
        channels: channels of the features.
    """

    def __init__(self, embedding_channels: int, channels: int) -> None:
        super().__init__()
        self.projection = nn.Sequential(nn.SiLU(), nn.Linear(embedding_channels, 2 * channels))

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """x (N, C, *S), embedding (N, E) -> (N, C, *S)."""
        parameters = self.projection(embedding).to(x.dtype)  # (N, 2C)
        scale, shift = parameters[(...,) + (None,) * (x.ndim - 2)].chunk(2, dim=1)  # (N, C, 1, 1) each
        return x * (1 + scale) + shift
