"""The MST block: convolutions for what is near, space-time Mamba scans for what is far, and a gate between them."""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.layers.factories import Conv
from torch import nn

from .convolution import TimeResBlock, group_norm
from .embeddings import Modulation
from .space_time_scan import SpaceTimeScan

__all__ = ["MSTBlock"]


class MSTBlock(nn.Module):
    """
    Local features of each frame by convolutions, global context of all frames by Mamba, fused by a learned gate.

    MSTG (Zhang & Liang 2025): convolution and pooling layers extract local features, Mamba blocks then "adaptively
    select and fuse" global context. Here, with ``l`` the output of a ResNet block on each frame,
    ``m = up(Scan(Norm(pool(l)) * (1 + scale) + shift))`` over all frames, and the output is
    ``l + sigmoid(Conv1x1([l, m])) * m``. The abstract fixes the parts and their order; the formula is ours.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        embedding_channels: size of the condition vector of a frame.
        spatial_dims: number of spatial dimensions, 2 or 3.
        pool: the scan sees the frames averaged over cells of this many voxels a side; 1: as they are.
        dropout: dropout of the convolutional part.
        scan: further arguments of `SpaceTimeScan`.

    Raises:
        ValueError: when ``pool`` is below 1, or an argument of the scan is out of range.

    Example:
        >>> MSTBlock(4, 8, 16)(torch.randn(2, 3, 4, 5, 6, 2), torch.randn(2, 3, 16)).shape
        torch.Size([2, 3, 8, 5, 6, 2])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_channels: int,
        spatial_dims: int = 3,
        pool: int = 1,
        dropout: float = 0.0,
        **scan: Any,
    ) -> None:
        super().__init__()
        if pool < 1:
            raise ValueError(f"pool must be at least 1, got {pool}")
        self.local = TimeResBlock(in_channels, out_channels, embedding_channels, dropout, spatial_dims=spatial_dims)
        self.pool = pool
        self.norm = group_norm(out_channels)
        self.modulation = Modulation(embedding_channels, out_channels)
        self.mamba = SpaceTimeScan(out_channels, spatial_dims, **scan)
        self.gate = Conv[Conv.CONV, spatial_dims](2 * out_channels, out_channels, kernel_size=1)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """x (N, T, C, *S), embedding of each frame (N, T, E) -> (N, T, C', *S)."""
        leading, spatial = x.shape[:2], x.shape[3:]  # (N, T), *S
        embedding = embedding.flatten(0, 1)  # (N T, E)
        local = self.local(x.flatten(0, 1), embedding)  # (N T, C', *S)
        pooled = local if self.pool == 1 else self._average(local)
        pooled = self.modulation(self.norm(pooled), embedding)
        context = self.mamba(pooled.unflatten(0, leading)).flatten(0, 1)  # (N T, C', *S')
        if self.pool > 1:
            context = nn.functional.interpolate(context, size=spatial, mode="nearest")
        gate = torch.sigmoid(self.gate(torch.cat([local, context], dim=1)))
        return (local + gate * context).unflatten(0, leading)

    def _average(self, x: torch.Tensor) -> torch.Tensor:
        """Average over cells of ``pool`` voxels a side; a side that is no multiple has cells that overlap."""
        cells = [-(-size // self.pool) for size in x.shape[2:]]
        average = nn.functional.adaptive_avg_pool3d if len(cells) == 3 else nn.functional.adaptive_avg_pool2d
        return average(x, cells)
