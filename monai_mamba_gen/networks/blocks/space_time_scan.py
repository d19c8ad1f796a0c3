"""The selective scan of several frames along space and time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Conv
from torch import nn

from ...ops import space_time_orders
from .directional_scan import DirectionalScan
from .pointwise import pointwise

__all__ = ["SpaceTimeScan"]


class SpaceTimeScan(DirectionalScan):
    """
    Mamba block over the cells of T frames: selective scans along space and along time, both ways.

    As in SS2D (Liu et al. 2024) the tokens are projected, pass a depthwise convolution (within each frame), are scanned
    in K orders with parameters of their own, added, normalised, gated and projected back. The orders are those of
    `space_time_orders`: frame by frame, and cell by cell through all frames. The cost is linear in the number of
    tokens.

    Args:
        d_model: channels of input and output.
        spatial_dims: number of spatial dimensions, 2 or 3.
        paths: paths of `space_time_orders`.
        bidirectional: whether each path is also taken backwards.
        snake: whether lines alternate their direction.
        d_state: state size S of the scan.
        expand: inner channels as a multiple of ``d_model``.
        dt_rank: rank of the step-size projection or ``"auto"``.
        d_conv: kernel size of the depthwise convolution, odd; 1 leaves it out.
        scan_backend: backend of `ordered_scan`; default the fastest.

    Raises:
        ValueError: when an argument is out of range.

    Example:
        >>> SpaceTimeScan(8)(torch.randn(2, 3, 8, 4, 5, 2)).shape
        torch.Size([2, 3, 8, 4, 5, 2])
    """

    def __init__(
        self,
        d_model: int,
        spatial_dims: int = 3,
        paths: Sequence[str] = ("space", "time"),
        bidirectional: bool = True,
        snake: bool = True,
        d_state: int = 16,
        expand: float = 2,
        dt_rank: int | str = "auto",
        d_conv: int = 3,
        scan_backend: str | None = None,
    ) -> None:
        super().__init__(d_model, d_state, expand, dt_rank, len(paths) * (2 if bidirectional else 1), scan_backend)
        if d_conv % 2 != 1:
            raise ValueError(f"d_conv must be odd, got {d_conv}")
        self.paths, self.bidirectional, self.snake = tuple(paths), bidirectional, snake
        space_time_orders((1, 1), self.paths)  # names unknown paths now rather than at the first call
        inner = self.d_inner
        self.in_proj = nn.Linear(d_model, 2 * inner, bias=False)
        self.conv = None
        if d_conv > 1:
            self.conv = Conv[Conv.CONV, spatial_dims](inner, inner, d_conv, padding=d_conv // 2, groups=inner)
        self.add_scan_parameters()
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, d_model, bias=False)
        self.reset_scan_parameters()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (N, T, C, *S) -> (N, T, C, *S)."""
        batch, frames, spatial = x.shape[0], x.shape[1], x.shape[3:]
        orders = space_time_orders((frames, *spatial), self.paths, self.bidirectional, self.snake, x.device)  # (K, L)
        tokens = x.movedim(2, -1).reshape(batch, -1, x.shape[2])  # (N, L, C), L = T * prod(S)
        inner, gate = pointwise(tokens, self.in_proj.weight).chunk(2, dim=-1)  # (N, L, E) each
        if self.conv is not None:
            # torch's ONNX exporter mistakes a negative first argument of movedim
            image = inner.reshape(batch * frames, *spatial, -1).movedim(1 + len(spatial), 1)  # (N T, E, *S)
            inner = self.conv(image).movedim(1, -1).reshape(batch, orders.shape[1], -1)
        y = self.scan(nn.functional.silu(inner), orders)  # (N, L, E)
        y = pointwise(self.out_norm(y) * nn.functional.silu(gate), self.out_proj.weight)  # (N, L, C)
        return y.reshape(batch, frames, *spatial, -1).movedim(2 + len(spatial), 2)
