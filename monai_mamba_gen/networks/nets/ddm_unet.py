"""
The denoiser of the Diffusion Deformable Model (DDM).

Kim & Ye, "Diffusion Deformable Model for 4D Temporal Medical Image Generation", MICCAI 2022. Here as a baseline, on
MONAI's ``DiffusionModelUNet``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import nn

from ..blocks import expand_timesteps, pad_to_multiple

__all__ = ["DDMUNet"]

_NO_FRAME = -1.0  # what stands for a frame that is not known, as MONAI's classifier-free guidance fills a condition


class DDMUNet(nn.Module):
    """
    3D U-Net of DDM: x and the two frames it is conditioned on, concatenated on the channel axis.

    With the defaults it has 724,425 parameters; DDM's own has 715,665. As there: 8, 16, 32, 32 channels, one residual
    block a level, groups of a normalisation 4, attention in the middle only, orthogonal initial weights. Different,
    because MONAI's network is so: the attention is softmax attention (DDM: linear), the time embedding has
    ``4 * channels[0]`` numbers (DDM: 8) and the middle its two residual blocks with it.

    Args:
        spatial_dims: number of spatial dimensions; 3.
        in_channels: channels of x.
        out_channels: channels of the output.
        context_frames: frames of the condition: end diastole and end systole.
        channels: channels of each level, finest first, multiples of 4. Each further level halves the resolution.

    Raises:
        ValueError: naming the argument, its value and what is allowed.

    Example:
        >>> net = DDMUNet(channels=(4, 8))
        >>> frames = torch.rand(1, 2, 9, 8, 5) * 2 - 1  # end diastole, end systole
        >>> net(torch.randn(1, 1, 9, 8, 5), timesteps=torch.tensor([300]), context=frames).shape
        torch.Size([1, 1, 9, 8, 5])
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        out_channels: int = 1,
        context_frames: int = 2,
        channels: Sequence[int] = (8, 16, 32, 32),
    ) -> None:
        super().__init__()
        if spatial_dims != 3:
            raise ValueError(f"spatial_dims must be 3, got {spatial_dims}")
        if not channels or any(width < 4 or width % 4 for width in channels):
            raise ValueError(f"channels must be multiples of 4, got {tuple(channels)}")
        counts = {"in_channels": in_channels, "out_channels": out_channels, "context_frames": context_frames}
        for name, value in counts.items():
            if value < (0 if name == "context_frames" else 1):
                raise ValueError(f"{name} must be positive, got {value}")
        self.in_channels, self.out_channels, self.context_frames = in_channels, out_channels, context_frames
        self.stride = 2 ** (len(channels) - 1)
        self.unet = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=in_channels + context_frames,
            out_channels=out_channels,
            num_res_blocks=1,
            channels=tuple(channels),
            attention_levels=(False,) * len(channels),  # MONAI's middle has attention of its own
            norm_num_groups=4,
            num_head_channels=max(channels[-1] // 4, 1),
            use_flash_attention=True,  # the same numbers; memory linear in the voxels of the coarsest level
        )
        self.apply(self._initialise)

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, (nn.Conv3d, nn.Linear)):
            nn.init.orthogonal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(
        self, x: torch.Tensor, timesteps: torch.Tensor | None = None, context: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        Predict the noise in x (or what the scheduler's ``prediction_type`` says).

        Args:
            x: noisy volumes, (N, in_channels, H, W, D).
            timesteps: diffusion time, (N,) or (1,), integer or float; None: zeros.
            context: frames at end diastole and end systole, (N, context_frames, H, W, D) in [-1, 1], -1 everywhere
                where a frame is not known; None: no frame is known.

        Returns:
            (N, out_channels, H, W, D).

        Raises:
            ValueError: when shapes do not fit.
        """
        if x.ndim != 5 or x.shape[1] != self.in_channels:
            raise ValueError(f"x must be (N, {self.in_channels}, H, W, D), got {tuple(x.shape)}")
        batch, _, *size = x.shape
        expected = (batch, self.context_frames, *size)
        if context is None:
            context = x.new_full(expected, _NO_FRAME)
        if tuple(context.shape) != expected:
            raise ValueError(f"context must be {expected}, got {tuple(context.shape)}")
        timesteps = expand_timesteps(timesteps, x)
        inputs = pad_to_multiple(torch.cat([x, context.to(x)], dim=1), self.stride)
        height, width, depth = size
        return self.unet(inputs, timesteps)[..., :height, :width, :depth]
