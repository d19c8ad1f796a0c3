"""Any denoiser made conditional on an image by giving it that image as further channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..blocks import expand_timesteps, pad_to_multiple

__all__ = ["ConcatConditioned"]


class ConcatConditioned(nn.Module):
    """
    Denoiser that sees the source image beside the noisy one, such as MONAI's `DiffusionModelUNet`.

    Sizes that the network cannot take are padded by repeating the border, and cropped back.

    Args:
        network: called with (N, C + C', H, W) and the times (N,).
        multiple: each side is padded to a multiple of this; for a U-Net 2 to the power of the number of halvings.
        context_channels: channels C' of the source image; default those of x.

    Raises:
        ValueError: when ``multiple`` is below 1.

    Example:
        >>> from monai.networks.nets import DiffusionModelUNet
        >>> sizes = {"channels": (8, 16), "attention_levels": (False, False), "norm_num_groups": 4, "num_res_blocks": 1}
        >>> unet = DiffusionModelUNet(spatial_dims=2, in_channels=2, out_channels=1, num_head_channels=8, **sizes)
        >>> ConcatConditioned(unet, multiple=2)(torch.randn(1, 1, 7, 9), context=torch.randn(1, 1, 7, 9)).shape
        torch.Size([1, 1, 7, 9])
    """

    def __init__(self, network: nn.Module, multiple: int = 1, context_channels: int | None = None) -> None:
        super().__init__()
        if multiple < 1:
            raise ValueError(f"multiple must be at least 1, got {multiple}")
        self.network, self.multiple, self.context_channels = network, multiple, context_channels

    def forward(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor | None = None,
        context: torch.Tensor | None = None,
        **ignored: Any,
    ) -> torch.Tensor:
        """
        Predict the noise in x.

        Args:
            x: noisy images, (N, C, *S).
            timesteps: diffusion time, (N,) or (1,), integer or float; None: zeros.
            context: source images, (N, C', *S); None, no condition, is filled with -1.
            ignored: what other networks are told as well.

        Returns:
            (N, out_channels, *S).

        Raises:
            ValueError: when shapes do not fit.
        """
        shape = (x.shape[0], self.context_channels or x.shape[1], *x.shape[2:])
        context = x.new_full(shape, -1.0) if context is None else context.to(x.dtype)
        if tuple(context.shape) != shape:
            raise ValueError(f"context must be {shape}, got {tuple(context.shape)}")
        given = pad_to_multiple(torch.cat([x, context], dim=1), self.multiple)
        y = self.network(given, expand_timesteps(timesteps, x))
        return y[(..., *(slice(size) for size in x.shape[2:]))]
