"""The 2D selective scan of VMamba, with VM-DDPM's Sequence Regeneration."""

from __future__ import annotations

import torch
from torch import nn

from ...ops import cross_scan_orders, random_order, regenerate_orders
from .directional_scan import DirectionalScan
from .pointwise import pointwise

__all__ = ["SS2D", "seed_scan_orders"]

_MODES = ("always", "train", "off")


class SS2D(DirectionalScan):
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
            ``"off"``: never, the output is then a plain function of the input. Traced and exported networks do as
            ``"off"`` does, whatever stands here.
        scan_backend: backend of `ordered_scan`; default the fastest.

    Raises:
        ValueError: when an argument is out of range.

    Example:
        >>> SS2D(8)(torch.randn(1, 8, 5, 7)).shape
        torch.Size([1, 8, 5, 7])
    """

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
        super().__init__(d_model, d_state, expand, dt_rank, directions=4, scan_backend=scan_backend)
        if sequence_regeneration not in _MODES:
            raise ValueError(f"sequence_regeneration must be one of {_MODES}, got {sequence_regeneration!r}")
        if d_conv % 2 != 1:
            raise ValueError(f"d_conv must be odd, got {d_conv}")
        self.sequence_regeneration = sequence_regeneration
        self.order_generator: torch.Generator | None = None  # None: torch's global generator

        inner = self.d_inner
        self.in_proj = nn.Linear(d_model, 2 * inner, bias=False)
        self.conv2d = nn.Conv2d(inner, inner, d_conv, padding=d_conv // 2, groups=inner)
        self.add_scan_parameters()
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, d_model, bias=False)
        self.reset_scan_parameters()

    def draw_order(self, height: int, width: int) -> torch.Tensor | None:
        """Draw the shuffle (L,) of the next scan, or None where Sequence Regeneration is off."""
        if torch.jit.is_tracing() or torch.compiler.is_exporting():
            return None  # an exported network gives the same answer twice
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
        y = self.scan(image.flatten(2).transpose(1, 2), orders)  # (N, L, E)
        y = self.out_norm(y) * nn.functional.silu(gate)
        return pointwise(y, self.out_proj.weight).transpose(1, 2).unflatten(-1, (height, width))


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
