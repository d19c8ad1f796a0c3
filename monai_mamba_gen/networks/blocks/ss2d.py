"""The 2D selective scan of VMamba, with VM-DDPM's Sequence Regeneration."""

from __future__ import annotations

import math

import torch
from torch import nn

from ...ops import cross_scan_orders, ordered_scan, random_order, regenerate_orders
from .pointwise import pointwise

__all__ = ["SS2D", "seed_scan_orders"]

_MODES = ("always", "train", "off")


class SS2D(nn.Module):
    """
    Selective scan of an image in four directions (CSM), with or without Sequence Regeneration.

    VMamba (Liu et al. 2024), SS2D; VM-DDPM (Ju & Zhou 2024), section III.D. The image is projected, passes a depthwise
    convolution, is scanned by rows and columns forwards and backwards, each direction with its own parameters, summed,
    normalised, gated and projected back. With Sequence Regeneration the cells are shuffled before the four scans and
    put back after them. Parameter names and shapes are those of VMamba and VM-UNet, so published weights load strictly.

    Args:
        d_model: channels of input and output.
        d_state: state size S of the scan.
        expand: inner channels as a multiple of ``d_model``.
        dt_rank: rank of the step-size projection; ``"auto"`` is ``ceil(d_model / 16)``.
        d_conv: kernel size of the depthwise convolution, odd.
        sequence_regeneration: ``"always"``: a new random order at every scan; ``"train"``: only in training mode;
            ``"off"``: never, the output is then a plain function of the input.
        scan_backend: backend of `ordered_scan`; default the fastest.

    Raises:
        ValueError: when an argument is out of range.

    Example:
        >>> SS2D(8)(torch.randn(1, 8, 5, 7)).shape
        torch.Size([1, 8, 5, 7])
    """

    directions = 4

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        expand: float = 2,
        dt_rank: int | str = "auto",
        d_conv: int = 3,
        sequence_regeneration: str = "off",
        scan_backend: str | None = None,
    ) -> None:
        super().__init__()
        if sequence_regeneration not in _MODES:
            raise ValueError(f"sequence_regeneration must be one of {_MODES}, got {sequence_regeneration!r}")
        if d_conv % 2 != 1:
            raise ValueError(f"d_conv must be odd, got {d_conv}")
        if isinstance(dt_rank, str) and dt_rank != "auto":
            raise ValueError(f"dt_rank must be an integer or 'auto', got {dt_rank!r}")
        if d_model < 1 or d_state < 1 or int(expand * d_model) < 1:
            raise ValueError(f"d_model, d_state and expand must be positive, got {d_model}, {d_state} and {expand}")
        self.d_state = d_state
        self.d_inner = int(expand * d_model)
        self.dt_rank = math.ceil(d_model / 16) if dt_rank == "auto" else int(dt_rank)
        self.sequence_regeneration = sequence_regeneration
        self.scan_backend = scan_backend
        self.order_generator: torch.Generator | None = None  # None: torch's global generator

        inner, k = self.d_inner, self.directions
        self.in_proj = nn.Linear(d_model, 2 * inner, bias=False)
        self.conv2d = nn.Conv2d(inner, inner, d_conv, padding=d_conv // 2, groups=inner)
        self.x_proj_weight = nn.Parameter(torch.empty(k, self.dt_rank + 2 * d_state, inner))
        self.dt_projs_weight = nn.Parameter(torch.empty(k, inner, self.dt_rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(k, inner))
        self.A_logs = nn.Parameter(torch.empty(k * inner, d_state))
        self.Ds = nn.Parameter(torch.empty(k * inner))
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, d_model, bias=False)
        self.reset_scan_parameters()

    @torch.no_grad()
    def reset_scan_parameters(self, dt_min: float = 1e-3, dt_max: float = 0.1, dt_floor: float = 1e-4) -> None:
        """Initialise the scan as Mamba does: log-uniform step sizes, A = -1..-S, D = 1."""
        bound = self.d_inner**-0.5
        self.x_proj_weight.uniform_(-bound, bound)  # nn.Linear's default
        self.dt_projs_weight.uniform_(-(self.dt_rank**-0.5), self.dt_rank**-0.5)
        log_dt = torch.empty_like(self.dt_projs_bias).uniform_(math.log(dt_min), math.log(dt_max))
        dt = log_dt.exp().clamp(min=dt_floor)
        self.dt_projs_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus
        self.A_logs.copy_(torch.arange(1, self.d_state + 1).log().expand_as(self.A_logs))
        self.Ds.fill_(1.0)
        for parameter in (self.A_logs, self.Ds):
            parameter._no_weight_decay = True

    def draw_order(self, height: int, width: int) -> torch.Tensor | None:
        """Draw the shuffle (L,) of the next scan, or None where Sequence Regeneration is off."""
        if self.sequence_regeneration == "off" or (self.sequence_regeneration == "train" and not self.training):
            return None
        return random_order(height * width, self.order_generator)

    def forward(self, x: torch.Tensor, shuffle: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            x: (N, C, H, W).
            shuffle: permutation (H * W,) of the cells, for callers that draw it themselves; default `draw_order`.

        Returns:
            (N, C, H, W).
        """
        height, width = x.shape[-2:]
        if shuffle is None:
            shuffle = self.draw_order(height, width)
        orders = cross_scan_orders(height, width, x.device)  # (K, L)
        if shuffle is not None:
            orders = regenerate_orders(orders, shuffle)
        tokens = x.flatten(2).transpose(1, 2)  # (N, L, C)
        inner, gate = pointwise(tokens, self.in_proj.weight).chunk(2, dim=-1)  # (N, L, E) each
        image = inner.transpose(1, 2).unflatten(-1, (height, width))  # (N, E, H, W), channels last in memory
        image = nn.functional.silu(self.conv2d(image))
        y = self._scan(image.flatten(2).transpose(1, 2), orders)  # (N, L, E)
        y = self.out_norm(y) * nn.functional.silu(gate)
        return pointwise(y, self.out_proj.weight).transpose(1, 2).unflatten(-1, (height, width))

    def _scan(self, tokens: torch.Tensor, orders: torch.Tensor) -> torch.Tensor:
        """Scan (N, L, E) in K orders and add the results: (N, L, E) in raster order."""
        k, rank, state = self.directions, self.dt_rank, self.d_state
        # Projections are per cell, so that they need no order; those of one kind are put side by side.
        split = (rank, state, state)
        weight = torch.cat([part.flatten(0, 1) for part in self.x_proj_weight.split(split, dim=1)])
        dt, B, C = pointwise(tokens, weight).split(
            [k * size for size in split], dim=-1
        )  # (N, L, K R), twice (N, L, K S)
        dt = pointwise(dt, self.dt_projs_weight.flatten(0, 1), groups=k).unflatten(-1, (k, -1))  # (N, L, K, E)
        B, C = (m.unflatten(-1, (k, -1)) for m in (B, C))  # (N, L, K, S)
        A = -torch.exp(self.A_logs.float() if self.A_logs.dtype != torch.float64 else self.A_logs)
        return ordered_scan(
            tokens,
            dt,
            A.unflatten(0, (k, -1)),
            B,
            C,
            D=self.Ds.unflatten(0, (k, -1)),
            delta_bias=self.dt_projs_bias,
            orders=orders,
            delta_softplus=True,
            backend=self.scan_backend,
        )


def seed_scan_orders(network: nn.Module, seed: int) -> None:
    """
    Fix the random scan orders that a network draws from here on.

    All SS2D modules of the network then share one generator of their own, so that orders depend on the seed and on how
    many were drawn since, and on nothing else. Networks without SS2D are left as they are.

    Args:
        network: any module.
        seed: the seed.
    """
    modules = [module for module in network.modules() if isinstance(module, SS2D)]
    generator = torch.Generator().manual_seed(seed)
    for module in modules:
        module.order_generator = generator
