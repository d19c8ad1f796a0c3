"""The State Space Layer, VM-DDPM's unit of construction."""

from __future__ import annotations

import torch
from torch import nn

from .convolution import TimeResBlock
from .mss_block import MSSBlock

__all__ = ["SSLayer"]

_FUSIONS = ("mean", "concat")


class SSLayer(nn.Module):
    """
    A ResNet block, a multi-level state space block, and a residual fusion of the two.

    VM-DDPM (Ju & Zhou 2024), section III.B and figure 1 (b). ``r = ResBlock(x, t)``, ``m = MSSBlock(r, t)``; the output
    fuses r and m: ``"mean"`` takes ``(r + m) / 2`` (m contains r already, so a plain sum would double the signal at
    every layer), ``"concat"`` mixes them by a 1x1 convolution.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        embedding_channels: size of the condition vector.
        fusion: ``"mean"`` or ``"concat"``.
        block_fusion: ``fusion`` of `MSSBlock`.
        dropout: dropout of the convolutional parts.
        ssm: further arguments of `SS2D`.

    Raises:
        ValueError: when ``fusion`` is unknown.

    Example:
        >>> SSLayer(4, 8, 16)(torch.randn(1, 4, 5, 7), torch.randn(1, 16)).shape
        torch.Size([1, 8, 5, 7])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_channels: int,
        fusion: str = "mean",
        block_fusion: str = "cascade",
        dropout: float = 0.0,
        **ssm,
    ) -> None:
        super().__init__()
        if fusion not in _FUSIONS:
            raise ValueError(f"fusion must be one of {_FUSIONS}, got {fusion!r}")
        self.out_channels = out_channels
        self.res_block = TimeResBlock(in_channels, out_channels, embedding_channels, dropout)
        self.mss_block = MSSBlock(out_channels, embedding_channels, block_fusion, dropout, **ssm)
        self.mix = nn.Conv2d(2 * out_channels, out_channels, kernel_size=1) if fusion == "concat" else None

    def draw_order(self, height: int, width: int) -> torch.Tensor | None:
        """Draw the shuffle of the next scan, see `SS2D.draw_order`."""
        return self.mss_block.csm.draw_order(height, width)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor, shuffle: torch.Tensor | None = None) -> torch.Tensor:
        """x (N, C, H, W), embedding (N, E), shuffle as in `SS2D` -> (N, C', H, W)."""
        r = self.res_block(x, embedding)  # (N, C', H, W)
        m = self.mss_block(r, embedding, shuffle)  # (N, C', H, W)
        return (r + m) / 2 if self.mix is None else self.mix(torch.cat([r, m], dim=1))
