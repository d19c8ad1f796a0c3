"""Convolutional blocks with time embedding, and changes of resolution."""

from __future__ import annotations

import torch
from monai.networks.layers.factories import Conv
from torch import nn

from .embeddings import Modulation

__all__ = ["Downsample2d", "TimeConvBlock", "TimeResBlock", "Upsample2d", "group_norm"]


def group_norm(channels: int, max_groups: int = 32, min_group_size: int = 4) -> nn.GroupNorm:
    """
    Group normalisation with as many groups as allowed.

    Groups of a single channel would erase that channel's mean, and could not normalise one cell at all.

    Args:
        channels: channels of the input.
        max_groups: at most so many groups.
        min_group_size: at least so many channels a group, where there are as many.
    """
    smallest = min(min_group_size, channels)
    groups = max(g for g in range(1, max_groups + 1) if channels % g == 0 and channels // g >= smallest)
    return nn.GroupNorm(groups, channels)


class TimeConvBlock(nn.Module):
    """
    Normalise, shift and scale by the condition, SiLU, convolution of kernel size 3: the CNN module of `MSSBlock`.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        embedding_channels: size of the condition vector.
        dropout: probability of zeroing a value before the convolution.
        spatial_dims: number of spatial dimensions, 1 to 3.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_channels: int,
        dropout: float = 0.0,
        spatial_dims: int = 2,
    ) -> None:
        super().__init__()
        self.norm = group_norm(in_channels)
        self.modulation = Modulation(embedding_channels, in_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv = Conv[Conv.CONV, spatial_dims](in_channels, out_channels, kernel_size=3, padding=1)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """x (N, C, *S), embedding (N, E) -> (N, C', *S)."""
        h = nn.functional.silu(self.modulation(self.norm(x), embedding))
        return self.conv(self.dropout(h))


class TimeResBlock(nn.Module):
    """
    ResNet block with time embedding: two convolutions and a residual connection, as in DDPM (Ho et al. 2020).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        embedding_channels: size of the condition vector.
        dropout: probability of zeroing a value before the second convolution.
        spatial_dims: number of spatial dimensions, 1 to 3.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_channels: int,
        dropout: float = 0.0,
        spatial_dims: int = 2,
    ) -> None:
        super().__init__()
        convolution = Conv[Conv.CONV, spatial_dims]
        self.norm = group_norm(in_channels)
        self.conv = convolution(in_channels, out_channels, kernel_size=3, padding=1)
        self.time_conv = TimeConvBlock(out_channels, out_channels, embedding_channels, dropout, spatial_dims)
        self.skip = nn.Identity() if in_channels == out_channels else convolution(in_channels, out_channels, 1)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """x (N, C, *S), embedding (N, E) -> (N, C', *S)."""
        h = self.conv(nn.functional.silu(self.norm(x)))  # (N, C', *S)
        return self.skip(x) + self.time_conv(h, embedding)


class Downsample2d(nn.Conv2d):
    """Halve height and width by a strided 3x3 convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, stride=2, padding=1)


class Upsample2d(nn.Module):
    """Double height and width: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (N, C, H, W) -> (N, C', 2H, 2W)."""
        return self.conv(nn.functional.interpolate(x, scale_factor=2.0, mode="nearest"))
