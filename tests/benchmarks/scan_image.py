"""
Contenders on images: the fused scan against copies, and a training step of VMDDPM against those of others.

The fused scan reads one channel-last image through index tables. The copies are VMamba's cross-scan and cross-merge:
four flipped or transposed copies of the image, scanned by the same kernel, turned back and added. They get delta, B and
C in the order of each scan already, since VMamba projects those from its copies.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from unittest import mock

import torch
import torch.nn.functional as F
from scan_contenders import Scan, Shape, draw_inputs, mambapy_module
from scan_timing import Contender

from monai_mamba_gen import ops

__all__ = ["copying_scan", "fused_scan", "random_orders", "training_steps"]


def random_orders(height: int, width: int) -> torch.Tensor:
    """The cross-scan of a shuffled image: VM-DDPM's Sequence Regeneration."""
    shuffle = ops.random_order(height * width, torch.Generator().manual_seed(0))
    return ops.regenerate_orders(ops.cross_scan_orders(height, width), shuffle)


def fused_scan(
    shape: Shape, orders: torch.Tensor | None, backend: str = "native", rank: int = 12, name: str = "fused"
) -> Scan:
    """`ordered_scan` of one image (N, L, E); B and C are slices of one projection with ``rank`` more columns."""
    n, k, e, length, s = shape
    inputs = draw_inputs(shape)
    x = inputs["u"].unflatten(1, (k, e))[:, 0].transpose(1, 2).contiguous()  # (N, L, E)
    delta = inputs["delta"].unflatten(1, (k, e)).permute(0, 3, 1, 2).contiguous()  # (N, L, K, E)
    projected = torch.cat([x.new_zeros(n, rank, k, length), *(inputs[m].transpose(1, 2) for m in "BC")], dim=1)
    projected = projected.permute(0, 3, 2, 1).contiguous()  # (N, L, K, R + 2S)
    B, C = projected[..., rank : rank + s], projected[..., rank + s :]
    A, D, bias = (inputs[m].unflatten(0, (k, e)) for m in ("A", "D", "delta_bias"))

    def function(x, delta, A, B, C, D, bias):
        return ops.ordered_scan(
            x, delta, A, B, C, D=D, delta_bias=bias, orders=orders, delta_softplus=True, backend=backend
        )

    return Scan(name, function, [x, delta, A, B, C, D, bias], lambda y: y.transpose(1, 2))


def copying_scan(shape: Shape, height: int, width: int, backend: str = "native") -> Scan:
    """The scan of `fused_scan` in cross-scan orders, by copies."""
    _, k, e, _, _ = shape
    inputs = draw_inputs(shape)
    orders = ops.cross_scan_orders(height, width)
    image = inputs["u"].unflatten(1, (k, e))[:, 0].unflatten(-1, (height, width)).contiguous()
    delta = inputs["delta"].unflatten(1, (k, e))
    delta, B, C = (
        torch.stack([m[:, i].index_select(-1, order) for i, order in enumerate(orders)], dim=1)
        for m in (delta, inputs["B"], inputs["C"])
    )

    def function(image, delta, A, B, C, D, bias):
        ahead = torch.stack([image.flatten(2), image.transpose(2, 3).flatten(2)], dim=1)
        u = torch.cat([ahead, ahead.flip(-1)], dim=1).flatten(1, 2)  # (N, K * E, L)
        y = ops.selective_scan(u, delta, A, B, C, D=D, delta_bias=bias, delta_softplus=True, backend=backend)
        y = y.unflatten(1, (k, e))
        y = y[:, :2] + y[:, 2:].flip(-1)
        return y[:, 0] + y[:, 1].unflatten(-1, (width, height)).transpose(2, 3).flatten(2)

    leaves = [image, delta.flatten(1, 2), inputs["A"], B, C, inputs["D"], inputs["delta_bias"]]
    return Scan("copies", function, leaves)


class _Permute(torch.autograd.Function):
    """``tokens[:, order]`` whose gradient is another gather, not a scattered addition."""

    @staticmethod
    def forward(ctx, tokens, order, inverse):
        ctx.save_for_backward(inverse)
        return tokens.index_select(1, order)

    @staticmethod
    def backward(ctx, grad):
        return grad.index_select(1, ctx.saved_tensors[0]), None, None


def _mambapy_ordered_scan(
    x, delta, A, B, C, D=None, delta_bias=None, orders=None, delta_softplus=False, reduction="sum", *, backend=None
):
    """`ordered_scan` by a permuted copy for each set and mambapy's ``MambaBlock.selective_scan``; D is needed."""
    scan = mambapy_module("mamba").MambaBlock.selective_scan
    ys = []
    for k, A_k in enumerate(A):
        u, dt, b, c = x, delta[:, :, k], B[:, :, k], C[:, :, k]
        if orders is not None:
            inverse = ops.inverse_order(orders[k])
            u, dt, b, c = (_Permute.apply(m, orders[k], inverse) for m in (u, dt, b, c))
        if delta_bias is not None:
            dt = dt + delta_bias[k]
        y = scan(None, u, F.softplus(dt) if delta_softplus else dt, A_k, b, c, D[k])
        ys.append(y if orders is None else _Permute.apply(y, inverse, orders[k]))
    if reduction == "none":
        return torch.stack(ys, dim=2)
    return sum(ys) / (len(ys) if reduction == "mean" else 1)


def _step(network: torch.nn.Module, x: torch.Tensor) -> Callable[[], None]:
    """A step of training: forward pass, squared error, backward pass, AdamW."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    noise, times = torch.randn_like(x), torch.arange(len(x)) * 100

    def run() -> None:
        optimizer.zero_grad()
        F.mse_loss(network(x, timesteps=times), noise).backward()
        optimizer.step()

    return run


def training_steps(quick: bool) -> tuple[list[Contender], dict[str, int]]:
    """Training steps of VMDDPM, of VMDDPM with mambapy's scan, and of MONAI's U-Net; and their parameter counts."""
    from monai.networks.nets import DiffusionModelUNet  # here: the other rows need neither MONAI nor its time to import

    from monai_mamba_gen.networks.nets import VMDDPM

    mambapy_module("mamba")
    torch.manual_seed(0)
    network = VMDDPM(channels=(8, 16) if quick else (48, 96, 192, 384), layers_per_stage=1 if quick else 2)
    unet = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        channels=(32, 64) if quick else (64, 128, 256, 352),
        num_res_blocks=1 if quick else 2,
        attention_levels=(False, True) if quick else (False, False, True, True),
        num_head_channels=32,
    )
    x = torch.randn((1, 1, 32, 32) if quick else (4, 1, 128, 128))
    with_mambapy = _step(copy.deepcopy(network), x)
    blocks = importlib.import_module("monai_mamba_gen.networks.blocks.directional_scan")

    def patched() -> None:
        with mock.patch.object(blocks, "ordered_scan", _mambapy_ordered_scan):
            with_mambapy()

    steps = {"ours": _step(network, x), "mambapy": patched, "DiffusionModelUNet": _step(unet, x)}
    counts = {"VMDDPM": network, "DiffusionModelUNet": unet}
    return (
        [Contender(name, run) for name, run in steps.items()],
        {name: sum(p.numel() for p in module.parameters()) for name, module in counts.items()},
    )
