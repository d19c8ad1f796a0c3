"""The multi-level state space block of VM-DDPM."""

from __future__ import annotations

import torch
from torch import nn

from .convolution import TimeConvBlock
from .ss2d import SS2D

__all__ = ["MSSBlock"]

_FUSIONS = ("cascade", "concat")


class MSSBlock(nn.Module):
    """
    Features along four paths: the input, CNN, CSM, and CNN after CSM.

    VM-DDPM (Ju & Zhou 2024), section III.C. The CSM module is a normalised `SS2D`, the CNN module a convolution that
    takes the time embedding. ``"cascade"`` connects both in series, each with a skip around it, ``h = x + CSM(x)`` and
    ``y = h + CNN(h)``, which for a linear CNN expands to ``x + CNN(x) + CSM(x) + CNN(CSM(x))``. ``"concat"`` computes
    the four paths one by one and mixes them by a 1x1 convolution. The paper gives the paths and leaves the sum open.

    Args:
        channels: channels of input and output.
        embedding_channels: size of the condition vector.
        fusion: ``"cascade"`` or ``"concat"``.
        dropout: dropout of the CNN module.
        ssm: further arguments of `SS2D`.

    Raises:
        ValueError: when ``fusion`` is unknown.

    Example:
        >>> MSSBlock(8, 16)(torch.randn(1, 8, 5, 7), torch.randn(1, 16)).shape
        torch.Size([1, 8, 5, 7])
    """

    def __init__(
        self, channels: int, embedding_channels: int, fusion: str = "cascade", dropout: float = 0.0, **ssm
    ) -> None:
        super().__init__()
        if fusion not in _FUSIONS:
            raise ValueError(f"fusion must be one of {_FUSIONS}, got {fusion!r}")
        self.norm = nn.GroupNorm(1, channels)
        self.csm = SS2D(channels, **ssm)
        self.cnn = TimeConvBlock(channels, channels, embedding_channels, dropout)
        self.mix = nn.Conv2d(4 * channels, channels, kernel_size=1) if fusion == "concat" else None

    def forward(self, x: torch.Tensor, embedding: torch.Tensor, shuffle: torch.Tensor | None = None) -> torch.Tensor:
        """x (N, C, H, W), embedding (N, E), shuffle as in `SS2D` -> (N, C, H, W)."""
        scanned = self.csm(self.norm(x), shuffle)
        if self.mix is None:
            h = x + scanned
            return h + self.cnn(h, embedding)
        return self.mix(torch.cat([x, self.cnn(x, embedding), scanned, self.cnn(scanned, embedding)], dim=1))
