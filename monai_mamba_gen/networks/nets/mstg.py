"""
MSTG: Mamba-Spatial-Temporal Generator, the denoiser of a diffusion deformable model of cardiac cine.

Zhang & Liang 2025. Only the abstract is public; what it fixes and what is chosen here stands in docs/fidelity.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from monai.networks.layers.factories import Conv, Pool
from torch import nn

from ..blocks import (
    FrameEmbedding,
    MSTBlock,
    ScriptableDenoiser,
    TimeResBlock,
    expand_timesteps,
    group_norm,
    pad_to_multiple,
)

__all__ = ["MSTG"]


class MSTG(nn.Module):
    """
    Space-time denoiser of cine frames, given the end-diastolic and the end-systolic volume.

    MSTG (Zhang & Liang 2025): convolution and pooling layers extract local features on several levels, Mamba blocks
    along space and time select and fuse global context. The given volumes and the noisy frames are frames of one cine:
    each passes the same convolutions, with the given volumes as further channels, and the `MSTBlock` of the coarse
    levels scan across all of them. Levels are halved by average pooling; the finest level and, once the levels with
    scans are behind it, the decoder follow the noisy frames only. In the diffusion deformable model (Kim & Ye 2022) it
    replaces the 3D U-Net: one noisy frame, the end-systolic volume. Sizes that are no multiple of the stride are
    padded inside and cropped back; cost and memory are linear in voxels and in frames.

    Args:
        spatial_dims: number of spatial dimensions, 2 or 3.
        in_channels: channels of a frame.
        out_channels: channels of the output; in a `DeformableDiffusion` 1 + code_channels.
        context_frames: number of given frames, 0 to 2 or more: the first stands before the noisy frames, the others
            after them.
        channels: channels of each level, finest first.
        num_res_blocks: blocks of each level, one number or one for each; 0, for the finest alone, leaves it one
            convolution on the way in and one on the way out, which halves the time of a step.
        mamba_levels: levels with `MSTBlock` instead of plain ResNet blocks, 0 is the finest; they must be the last
            ones. Default: the two coarsest.
        pool: see `MSTBlock`.
        dropout: dropout of the convolutional parts.
        scan: further arguments of `SpaceTimeScan`, such as ``paths``, ``d_state``, ``expand``.

    Raises:
        ValueError: naming the argument, its value and what is allowed.

    Example:
        >>> net = MSTG(channels=(8, 8, 16))
        >>> ed_es = torch.randn(1, 2, 10, 9, 5)
        >>> net(torch.randn(1, 1, 10, 9, 5), timesteps=torch.tensor([7]), context=ed_es).shape
        torch.Size([1, 1, 10, 9, 5])
        >>> net(torch.randn(1, 1, 6, 10, 9, 5), context=ed_es).shape  # six frames
        torch.Size([1, 1, 6, 10, 9, 5])
    """

    presets: dict[str, dict] = {
        "tiny": {"channels": (16, 16, 32), "num_res_blocks": (0, 1, 1), "d_state": 4, "expand": 1},
        "small": {"channels": (16, 16, 32, 64), "d_state": 8},
        "base": {"channels": (16, 32, 64, 64)},
    }

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        out_channels: int = 1,
        context_frames: int = 2,
        channels: Sequence[int] = (16, 32, 64, 64),
        num_res_blocks: Sequence[int] | int = 1,
        mamba_levels: Sequence[int] | None = None,
        pool: int = 1,
        dropout: float = 0.0,
        **scan: Any,
    ) -> None:
        super().__init__()
        depth = len(channels)
        if mamba_levels is None:
            mamba_levels = range(max(depth - 2, 0), depth)
        blocks = (num_res_blocks,) * depth if isinstance(num_res_blocks, int) else tuple(num_res_blocks)
        _check(spatial_dims, channels, blocks, context_frames, mamba_levels)
        self.spatial_dims, self.in_channels, self.out_channels = spatial_dims, in_channels, out_channels
        self.context_frames = context_frames
        self.stride = 2 ** (depth - 1)
        self.first_mamba_level = min(mamba_levels, default=depth)
        embedding_channels = 4 * channels[0]
        convolution = Conv[Conv.CONV, spatial_dims]
        self.embedding = FrameEmbedding(channels[0], embedding_channels, context_frames)

        def level(index: int, first_channels: int) -> nn.ModuleList:
            width = channels[index]
            options: dict[str, Any] = {"dropout": dropout, "spatial_dims": spatial_dims}
            kind: type[nn.Module] = TimeResBlock
            if index in mamba_levels:
                kind, options = MSTBlock, {**options, "pool": pool, **scan}
            ins = ([first_channels] + [width] * blocks[index])[: blocks[index]]
            return nn.ModuleList(kind(c, width, embedding_channels, **options) for c in ins)

        self.stem = convolution((1 + context_frames) * in_channels, channels[0], kernel_size=3, padding=1)
        self.encoder = nn.ModuleList(level(i, channels[max(i - 1, 0)]) for i in range(depth))
        self.down = Pool[Pool.AVG, spatial_dims](kernel_size=2)
        self.ups = nn.ModuleList(convolution(channels[i + 1], channels[i], 1) for i in range(depth - 1))
        self.merges = nn.ModuleList(convolution(2 * channels[i], channels[i], 1) for i in range(depth - 1))
        self.decoder = nn.ModuleList(level(i, channels[i]) for i in range(depth - 1))
        self.head = nn.Sequential(
            group_norm(channels[0]), nn.SiLU(), convolution(channels[0], out_channels, kernel_size=3, padding=1)
        )

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> MSTG:
        """
        Build a network of a named size.

        Args:
            name: a key of `presets`. ``"base"`` is the default of the constructor; ``"tiny"`` is for training without a
                GPU.
            overrides: arguments of the constructor that replace the preset's.

        Raises:
            ValueError: when there is no such preset.

        Example:
            >>> MSTG.from_preset("tiny").stride
            4
        """
        if name not in cls.presets:
            raise ValueError(f"preset must be one of {sorted(cls.presets)}, got {name!r}")
        return cls(**{**cls.presets[name], **overrides})

    def forward(
        self, x: torch.Tensor, timesteps: torch.Tensor | None = None, context: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        Predict the noise in x.

        Args:
            x: one noisy frame (N, in_channels, *S), or n frames (N, in_channels, n, *S) in the order of time.
            timesteps: diffusion time, (N,) or (1,), integer or float; None: zeros.
            context: given frames (N, context_frames * in_channels, *S) or (N, in_channels, context_frames, *S). A frame
                that is not known is filled with -1, and None stands for all frames unknown.

        Returns:
            like x, with out_channels.

        Raises:
            ValueError: when shapes do not fit.
        """
        frames = x[:, :, None] if x.ndim == self.spatial_dims + 2 else x  # (N, C, n, *S)
        if frames.ndim != self.spatial_dims + 3 or frames.shape[1] != self.in_channels:
            raise ValueError(
                f"x must be (N, {self.in_channels}, *S) or (N, {self.in_channels}, frames, *S) with "
                f"{self.spatial_dims} spatial sizes, got {tuple(x.shape)}"
            )
        count, size = frames.shape[2], frames.shape[3:]
        cine = self._join(frames, context)  # (N, F, (1 + M) C, *S), F = M + n, M = context_frames
        embedding = self.embedding(expand_timesteps(timesteps, x), count)  # (N, F, E)
        noisy = self._noisy(count)
        h, skips = self._encode(self._pad(cine), embedding, noisy)
        h = self._decode(h, skips, embedding, noisy)  # (N, n, C, *S)
        y = _each_frame(self.head, h).transpose(1, 2)  # (N, C', n, *S)
        y = y[(..., *(slice(length) for length in size))]
        return y[:, :, 0] if x.ndim == self.spatial_dims + 2 else y

    def __prepare_scriptable__(self) -> nn.Module:
        x = self.stem.weight.new_zeros(1, self.in_channels, *[2 * self.stride] * self.spatial_dims)
        context = x.repeat_interleave(self.context_frames, dim=1) if self.context_frames else None
        return ScriptableDenoiser(self, x, context)

    def _encode(
        self, cine: torch.Tensor, embedding: torch.Tensor, noisy: slice
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        h, skips = _each_frame(self.stem, cine), []
        for index, blocks in enumerate(self.encoder):
            if index == 0 < self.first_mamba_level:  # the given frames are channels here, and frames from level 1 on
                h = torch.cat(
                    [h[:, : noisy.start], self._run(blocks, h[:, noisy], embedding[:, noisy]), h[:, noisy.stop :]],
                    dim=1,
                )
            else:
                h = self._run(blocks, h, embedding)  # (N, F, C_i, *S / 2^i)
            if index < len(self.ups):
                skips.append(h)
                h = _each_frame(self.down, h)
        return h, skips

    def _decode(
        self, h: torch.Tensor, skips: list[torch.Tensor], embedding: torch.Tensor, noisy: slice
    ) -> torch.Tensor:
        for index in reversed(range(len(skips))):
            skip = skips[index]
            if index + 1 == min(self.first_mamba_level, len(skips)):  # no scan is to come: on with what is asked for
                h, embedding = h[:, noisy], embedding[:, noisy]
            skip = skip if h.shape[1] == skip.shape[1] else skip[:, noisy]
            h = _each_frame(partial(self._up, index), h, skip)
            h = self._run(self.decoder[index], h, embedding)  # (N, F or n, C_i, *S / 2^i)
        return h if h.shape[1] == noisy.stop - noisy.start else h[:, noisy]

    def _up(self, index: int, h: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Double the resolution and merge with the encoder's features, (M, C, *S) each."""
        h = F.interpolate(self.ups[index](h), scale_factor=2.0, mode="nearest")
        return self.merges[index](torch.cat([h, skip], dim=1))

    def _run(self, blocks: nn.ModuleList, h: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        for block in blocks:
            h = block(h, embedding) if isinstance(block, MSTBlock) else _each_frame(block, h, embedding)
        return h

    def _noisy(self, count: int) -> slice:
        """Where the noisy frames stand among all."""
        first = min(self.context_frames, 1)
        return slice(first, first + count)

    def _join(self, frames: torch.Tensor, context: torch.Tensor | None) -> torch.Tensor:
        """All frames in the order of time, each with the given ones as further channels: (N, F, (1 + M) C, *S)."""
        batch, channels, _, *size = frames.shape
        shape = (batch, channels, self.context_frames, *size)
        if context is None:
            context = frames.new_full(shape, -1.0)
        elif context.ndim == self.spatial_dims + 2 and context.shape[1] == self.context_frames * channels:
            context = context.unflatten(1, (self.context_frames, channels)).transpose(1, 2)
        if tuple(context.shape) != shape:
            flat = (batch, self.context_frames * channels, *size)
            raise ValueError(f"context must be {flat} or {shape}, got {tuple(context.shape)}")
        context, first = context.to(frames.dtype), min(self.context_frames, 1)
        cine = torch.cat([context[:, :, :first], frames, context[:, :, first:]], dim=2).transpose(1, 2)
        given = context.transpose(1, 2).flatten(1, 2)[:, None]  # (N, 1, M C, *S)
        return torch.cat([cine, given.expand(-1, cine.shape[1], *[-1] * (given.ndim - 2))], dim=2)

    def _pad(self, cine: torch.Tensor) -> torch.Tensor:
        """Repeat the last cells until every side is a multiple of the network's stride."""
        return pad_to_multiple(cine.flatten(0, 1), self.stride).unflatten(0, cine.shape[:2])


def _each_frame(function: Callable[..., torch.Tensor], *tensors: torch.Tensor) -> torch.Tensor:
    """
    Apply a function of (M, C, *S) to each frame of (N, F, C, *S).

    Without gradients on a CPU one frame after the other, so that what is computed stays in the caches however many
    frames there are; else all at once.
    """
    first = tensors[0]
    if torch.is_grad_enabled() or first.device.type != "cpu":
        return function(*(tensor.flatten(0, 1) for tensor in tensors)).unflatten(0, first.shape[:2])
    return torch.stack([function(*(tensor[:, i] for tensor in tensors)) for i in range(first.shape[1])], dim=1)


def _check(
    spatial_dims: int,
    channels: Sequence[int],
    blocks: Sequence[int],
    context_frames: int,
    mamba_levels: Sequence[int],
) -> None:
    depth = len(channels)
    if spatial_dims not in (2, 3):
        raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}")
    if depth < 1 or min(channels) < 1:
        raise ValueError(f"channels must be one or more positive integers, got {tuple(channels)}")
    if len(blocks) != depth or min(blocks[1:], default=1) < 1 or blocks[0] < 0:
        raise ValueError(f"num_res_blocks must be {depth} numbers of at least 1, the first also 0, got {tuple(blocks)}")
    if context_frames < 0:
        raise ValueError(f"context_frames must be at least 0, got {context_frames}")
    levels = sorted(mamba_levels)
    if levels != list(range(depth - len(levels), depth)):
        raise ValueError(f"mamba_levels must be the last ones of 0..{depth - 1}, got {tuple(mamba_levels)}")
