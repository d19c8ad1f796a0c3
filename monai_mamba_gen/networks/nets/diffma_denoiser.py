"""The published part of DiffMa: the network that is given tokens, soft mask and embedding of a source image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..blocks import (
    SCAN_ORDERS,
    DiffMaBlock,
    PatchHead,
    PatchTokens,
    SinusoidEmbedding,
    diffma_orders,
    expand_timesteps,
    pad_to_multiple,
    position_table,
)

__all__ = ["DiffMaDenoiser", "released_arguments"]


class DiffMaDenoiser(nn.Module):
    """
    Patches, positions, time, `DiffMaBlock` and head of DiffMa, under the published names; base of `DiffMa`.

    DiffMa (Wang et al. 2024). The input of block i of the second half is the sum of the outputs of blocks i - 1 and
    ``num_layers - 1 - i``; block i reads the tokens in the orders ``i % 8`` of `diffma_orders`.

    Args:
        in_channels: channels of all that is cut into patches.
        out_channels: channels of the output.
        image_size: rows and columns of the latent in training, one number for both or one each.
        patch_size: side of a patch.
        hidden_size: channels D of a token, a multiple of 4.
        num_layers: number of blocks.
        scan_order: see `diffma_orders`.
        use_checkpoint: whether to recompute the blocks in the backward pass.
        scan: further arguments of `DiffMaBlock`, such as ``d_state``.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        image_size: Sequence[int] | int = 28,
        patch_size: int = 2,
        hidden_size: int = 512,
        num_layers: int = 16,
        scan_order: str = "spiral",
        use_checkpoint: bool = False,
        **scan: Any,
    ) -> None:
        super().__init__()
        sizes = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if len(sizes) != 2 or min(sizes) < 1:
            raise ValueError(f"image_size must be one or two positive numbers, got {image_size}")
        if min(in_channels, out_channels) < 1:
            raise ValueError(f"numbers of channels must be at least 1, got {in_channels} and {out_channels}")
        for name, value in {"patch_size": patch_size, "num_layers": num_layers}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if scan_order not in SCAN_ORDERS:
            raise ValueError(f"scan_order must be one of {SCAN_ORDERS}, got {scan_order!r}")
        self.patch_size, self.hidden_size, self.num_layers = patch_size, hidden_size, num_layers
        self.out_channels = out_channels
        self.scan_order, self.use_checkpoint = scan_order, use_checkpoint
        self.grid = tuple(-(-size // patch_size) for size in sizes)
        if scan_order == "released" and self.grid[0] != self.grid[1]:
            raise ValueError(f"scan_order='released' knows square grids only, got image_size={image_size}")
        self.pos_embed = nn.Parameter(position_table(hidden_size, *self.grid), requires_grad=False)  # (1, T, D)
        self.x_embedder = PatchTokens(in_channels, hidden_size, patch_size)
        self.t_embedder = SinusoidEmbedding(hidden_size)
        self.blocks = nn.ModuleList(DiffMaBlock(hidden_size, **scan) for _ in range(num_layers))
        self.final_layer = PatchHead(hidden_size, 2 * hidden_size, patch_size, out_channels)
        self._initialise()

    def _initialise(self) -> None:
        """The published start values of what does not initialise itself."""
        nn.init.xavier_uniform_(self.x_embedder.proj.weight.data.flatten(1))
        nn.init.zeros_(self.x_embedder.proj.bias)
        for layer in (self.t_embedder.mlp[0], self.t_embedder.mlp[2]):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def denoise(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor | None,
        image_embedding: torch.Tensor,
        tokens: torch.Tensor,
        soft_mask: torch.Tensor,
    ) -> torch.Tensor:
        """
        Predict the noise in x from what was made of the source image: the published forward pass.

        Args:
            x: noisy latents, and whatever else is cut into patches, (N, C, H, W).
            timesteps: diffusion time, (N,) or (1,), integer or float; None: zeros.
            image_embedding: (N, hidden_size).
            tokens: of a `VisionEmbedder`, (N, T, hidden_size), T = ceil(H / patch) * ceil(W / patch), by rows.
            soft_mask: of a `VisionEmbedder`, (N, T, 1).

        Returns:
            (N, out_channels, H, W).

        Raises:
            ValueError: when shapes do not fit.
        """
        time = self.t_embedder(expand_timesteps(timesteps, x))
        return self._denoise(x, time, image_embedding, tokens, soft_mask)

    def _denoise(
        self,
        x: torch.Tensor,
        time: torch.Tensor,
        image_embedding: torch.Tensor,
        tokens: torch.Tensor,
        soft_mask: torch.Tensor,
    ) -> torch.Tensor:
        """`denoise` with the embedding of the time, (N, hidden_size)."""
        expect_shape("x", x, (x.shape[0], self.x_embedder.proj.in_channels, *x.shape[2:]), x.ndim == 4)
        height, width = x.shape[2:]
        x = pad_to_multiple(x, self.patch_size)
        grid = (int(x.shape[2]) // self.patch_size, int(x.shape[3]) // self.patch_size)
        leading = (x.shape[0], grid[0] * grid[1])  # (N, T)
        expect_shape("image_embedding", image_embedding, (x.shape[0], self.hidden_size))
        expect_shape("tokens", tokens, (*leading, self.hidden_size))
        expect_shape("soft_mask", soft_mask, (*leading, 1))
        condition = torch.cat([time + image_embedding, time + tokens.mean(dim=1)], dim=1)  # (N, 2D)
        h = self.x_embedder(x) + self._positions(grid)  # (N, T, D)
        h = self._run(h, condition, soft_mask, diffma_orders(self.scan_order, *grid, x.device))
        return self.final_layer(h, condition, grid)[..., :height, :width]

    def _positions(self, grid: tuple[int, int]) -> torch.Tensor:
        if grid == self.grid:
            return self.pos_embed
        return position_table(self.hidden_size, *grid).to(self.pos_embed)

    def _run(
        self, h: torch.Tensor, condition: torch.Tensor, soft_mask: torch.Tensor, orders: torch.Tensor
    ) -> torch.Tensor:
        """All blocks on the tokens (N, T, D), with the orders (8, K, T)."""
        outputs: list[torch.Tensor] = []  # of the first half
        for index, block in enumerate(self.blocks):
            if 2 * index > self.num_layers:
                h = h + outputs[self.num_layers - 1 - index]
            arguments = (h, condition, soft_mask, orders[index % 8])
            if self.use_checkpoint and torch.is_grad_enabled():
                h = checkpoint(block, *arguments, use_reentrant=False)
            else:
                h = block(*arguments)
            if 2 * index < self.num_layers:
                outputs.append(h)
        return h


def expect_shape(name: str, tensor: torch.Tensor, shape: Sequence[int], condition: bool = True) -> None:
    """Raise a ValueError where a tensor has another shape."""
    if not condition or tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{name} must be {tuple(shape)}, got {tuple(tensor.shape)}")


def released_arguments(state_dict: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """
    Return the arguments of `DiffMa` that fit a published state dict.

    Args:
        state_dict: names and shapes as published.

    Raises:
        ValueError: when names are missing that tell the sizes.
    """
    names = ["pos_embed", "x_embedder.proj.weight", "final_layer.linear.weight"]
    names += [f"blocks.0.mamba1.{name}" for name in ("A_log", "conv1d.weight", "dt_proj.weight")]
    if missing := [name for name in names if getattr(state_dict.get(name), "ndim", 0) < 2]:
        raise ValueError(f"state_dict must be a published DiffMa's, {missing[0]} is missing")
    positions, patches, head, states, convolution, rank = (state_dict[name] for name in names)
    hidden_size, in_channels, patch_size = patches.shape[:3]
    inner = states.shape[0]
    out_channels = head.shape[0] // patch_size**2
    learn_sigma = out_channels == 2 * in_channels
    indices = {int(key.split(".")[1]) for key in state_dict if key.startswith("blocks.")}
    return {
        "in_channels": in_channels,
        "out_channels": in_channels if learn_sigma else out_channels,
        "learn_sigma": learn_sigma,
        "image_size": patch_size * math.isqrt(positions.shape[1]),
        "patch_size": patch_size,
        "hidden_size": hidden_size,
        "num_layers": max(indices) + 1,
        "d_state": states.shape[1],
        "d_conv": convolution.shape[-1],
        "expand": inner // hidden_size if inner % hidden_size == 0 else inner / hidden_size,
        "dt_rank": rank.shape[1],
        "scan_order": "released",
        "embedder": False,
    }
