"""
VM-DDPM: Vision Mamba Diffusion for Medical Image Synthesis.

Ju & Zhou 2024, arXiv 2405.05667. The paper fixes the plan of the network and leaves many details open; those are
arguments here, and docs/fidelity.md lists them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..blocks import (
    ConditionEmbedding,
    Downsample2d,
    ScriptableDenoiser,
    SSLayer,
    Upsample2d,
    arrange_for_convolution,
    expand_timesteps,
    group_norm,
    pad_to_multiple,
)

__all__ = ["VMDDPM"]


class VMDDPM(nn.Module):
    """
    Noise predictor of VM-DDPM: a U-Net of State Space Layers.

    VM-DDPM (Ju & Zhou 2024), section III.B and figure 1 (a). A stem cuts the image into patches; each stage has
    ``layers_per_stage`` SSLayers and halves (encoder) or doubles (decoder) the resolution; the bottleneck is one
    SSLayer; decoder features are concatenated with the encoder's of the same resolution. With the default stem and four
    stages the encoder's output is (N, 8C, H/32, W/32), as in the paper. Sizes that are no multiple of the network's
    stride are padded inside and cropped back.

    Args:
        spatial_dims: number of spatial dimensions; 2.
        in_channels: channels of the image.
        out_channels: channels of the output.
        channels: channels of each stage, finest first.
        layers_per_stage: SSLayers a stage.
        stem_stride: side of the stem's patches.
        num_class_embeds: number of classes for a conditional network; None for an unconditional one.
        sequence_regeneration: ``"always"`` (the paper's reading: a new order at every scan), ``"train"`` or ``"off"``,
            see `SS2D`.
        block_fusion: how `MSSBlock` joins its four paths, ``"cascade"`` or ``"concat"``.
        layer_fusion: how `SSLayer` joins its two parts, ``"mean"`` or ``"concat"``.
        d_state: state size of the scans.
        expand: inner channels of the scans as a multiple of the stage's channels.
        dt_rank: rank of the step-size projection or ``"auto"``.
        d_conv: kernel size of the scans' depthwise convolution.
        dropout: dropout of the convolutional parts.
        use_checkpoint: whether to recompute the SSLayers in the backward pass and so trade time for memory.

    Raises:
        ValueError: naming the argument, its value and what is allowed.

    Example:
        >>> net = VMDDPM(channels=(8, 16), layers_per_stage=1)
        >>> net(torch.randn(2, 1, 30, 21), timesteps=torch.tensor([5, 900])).shape
        torch.Size([2, 1, 30, 21])
    """

    presets: dict[str, dict] = {
        "micro": {"channels": (16, 32, 64), "layers_per_stage": 1, "stem_stride": 2, "d_state": 1, "expand": 1},
        "tiny": {"channels": (32, 64, 128, 128), "layers_per_stage": 1, "stem_stride": 2, "d_state": 1, "expand": 1},
        "small": {"channels": (48, 96, 192, 384)},
        "base": {"channels": (64, 128, 256, 512)},
        "large": {"channels": (96, 192, 384, 768)},
    }

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 1,
        out_channels: int = 1,
        channels: Sequence[int] = (64, 128, 256, 512),
        layers_per_stage: int = 2,
        stem_stride: int = 4,
        num_class_embeds: int | None = None,
        sequence_regeneration: str = "always",
        block_fusion: str = "cascade",
        layer_fusion: str = "mean",
        d_state: int = 16,
        expand: float = 2,
        dt_rank: int | str = "auto",
        d_conv: int = 3,
        dropout: float = 0.0,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if spatial_dims != 2:
            raise ValueError(f"spatial_dims must be 2, got {spatial_dims}")
        for name, value in {"layers_per_stage": layers_per_stage, "stem_stride": stem_stride}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if len(channels) < 1 or min(channels) < 1:
            raise ValueError(f"channels must be one or more positive integers, got {tuple(channels)}")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.num_class_embeds = num_class_embeds
        self.use_checkpoint = use_checkpoint
        self.stride = stem_stride * 2 ** (len(channels) - 1)

        embedding_channels = 4 * channels[0]
        self.embedding = ConditionEmbedding(channels[0], embedding_channels, num_class_embeds)

        def stage(first_channels: int, width: int, depth: int = layers_per_stage) -> nn.ModuleList:
            return nn.ModuleList(
                SSLayer(
                    width if index else first_channels,
                    width,
                    embedding_channels,
                    fusion=layer_fusion,
                    block_fusion=block_fusion,
                    dropout=dropout,
                    d_state=d_state,
                    expand=expand,
                    dt_rank=dt_rank,
                    d_conv=d_conv,
                    sequence_regeneration=sequence_regeneration,
                )
                for index in range(depth)
            )

        self.stem = nn.Conv2d(in_channels, channels[0], kernel_size=stem_stride, stride=stem_stride)
        self.encoder = nn.ModuleList(stage(c, c) for c in channels)
        self.downs = nn.ModuleList(Downsample2d(a, b) for a, b in zip(channels, channels[1:], strict=False))
        self.bottleneck = stage(channels[-1], channels[-1], depth=1)
        self.decoder = nn.ModuleList(stage(2 * c, c) for c in reversed(channels))
        self.ups = nn.ModuleList(Upsample2d(b, a) for a, b in reversed(list(zip(channels, channels[1:], strict=False))))
        self.head = self._projection_head(channels[0], stem_stride, out_channels)

    @staticmethod
    def _projection_head(channels: int, stem_stride: int, out_channels: int) -> nn.Sequential:
        """Back from patches to pixels: widen, pixel shuffle, 3x3 convolution."""
        width = max(channels // 2, 8)
        return nn.Sequential(
            group_norm(channels),
            nn.SiLU(),
            nn.Conv2d(channels, width * stem_stride**2, kernel_size=1),
            nn.PixelShuffle(stem_stride),
            nn.SiLU(),
            nn.Conv2d(width, out_channels, kernel_size=3, padding=1),
        )

    @classmethod
    def from_preset(cls, name: str, **overrides) -> VMDDPM:
        """
        Build a network of a named size.

        Args:
            name: a key of `presets`. ``"base"`` is the default of the constructor; ``"micro"`` and ``"tiny"`` are for
                training without a GPU.
            overrides: arguments of the constructor that replace the preset's.

        Raises:
            ValueError: when there is no such preset.

        Example:
            >>> VMDDPM.from_preset("micro", in_channels=1).stride
            8
        """
        if name not in cls.presets:
            raise ValueError(f"preset must be one of {sorted(cls.presets)}, got {name!r}")
        return cls(**{**cls.presets[name], **overrides})

    def forward(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor | None = None,
        context: torch.Tensor | None = None,
        class_labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Predict the noise in x.

        Args:
            x: noisy images, (N, in_channels, H, W).
            timesteps: diffusion time, (N,) or (1,), integer or float; None: zeros.
            context: class labels, (N,) or (N, 1) integer, where MONAI's inferers pass a condition; below zero: no
            class. class_labels: the same under the name of MONAI's networks.

        Returns:
            (N, out_channels, H, W).

        Raises:
            ValueError: when shapes do not fit, or labels reach a network without classes.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"x must be (N, {self.in_channels}, H, W), got {tuple(x.shape)}")
        height, width = x.shape[-2:]
        embedding = self._embed(x, timesteps, context if class_labels is None else class_labels)  # (N, E)
        h = self.stem(pad_to_multiple(x, self.stride))  # (N, C, H/p, W/p)
        skips = []
        for level, layers in enumerate(self.encoder):
            h = self._run(layers, h, embedding)
            skips.append(h)
            if level < len(self.downs):
                h = self.downs[level](h)  # (N, 2C, H/2p, W/2p) and so on
        h = self._run(self.bottleneck, h, embedding)  # (N, 8C, H/32, W/32) with the defaults
        for level, layers in enumerate(self.decoder):
            h = self._run(layers, torch.cat([h, skips.pop()], dim=1), embedding)
            if level < len(self.ups):
                h = self.ups[level](arrange_for_convolution(h, self.ups[level].conv.out_channels))
        return self.head(h)[..., :height, :width]

    def __prepare_scriptable__(self) -> nn.Module:
        x = self.stem.weight.new_zeros(1, self.in_channels, 2 * self.stride, 2 * self.stride)
        labels = None if self.num_class_embeds is None else torch.zeros(1, dtype=torch.long, device=x.device)
        return ScriptableDenoiser(self, x, labels)

    def _embed(self, x: torch.Tensor, timesteps: torch.Tensor | None, labels: torch.Tensor | None) -> torch.Tensor:
        batch = x.shape[0]
        timesteps = expand_timesteps(timesteps, x)
        if labels is not None:
            labels = torch.as_tensor(labels, device=x.device).reshape(-1).long()
            if labels.shape[0] not in (1, batch):
                raise ValueError(f"class labels must be ({batch},) or (1,), got {tuple(labels.shape)}")
            labels = labels.expand(batch)
        return self.embedding(timesteps, labels)

    def _run(self, layers: nn.ModuleList, h: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        h = arrange_for_convolution(h, layers[0].out_channels)
        for layer in layers:
            if self.use_checkpoint and torch.is_grad_enabled():
                shuffle = layer.draw_order(*h.shape[-2:])  # drawn outside, so that recomputation meets the same order
                h = checkpoint(layer, h, embedding, shuffle, use_reentrant=False)
            else:
                h = layer(h, embedding)
        return h
