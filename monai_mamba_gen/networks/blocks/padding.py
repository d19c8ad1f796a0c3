"""Volumes of any size for networks that halve the resolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

__all__ = ["pad_to_multiple"]


def pad_to_multiple(x: torch.Tensor, multiple: int | Sequence[int]) -> torch.Tensor:
    """
    Repeat the last voxels of each spatial axis until its length is a multiple of the network's stride.

    The input starts at the origin of the output, so ``output[..., :H, :W, :D]`` crops it back.

    Args:
        x: (N, C, H, W[, D]).
        multiple: the stride, one number for all axes or one an axis.

    Example:
        >>> pad_to_multiple(torch.zeros(1, 1, 5, 8, 3), 8).shape
        torch.Size([1, 1, 8, 8, 8])
    """
    sizes = x.shape[2:]
    multiples = [multiple] * len(sizes) if isinstance(multiple, int) else list(multiple)
    amounts = [amount for size, each in zip(sizes, multiples, strict=True) for amount in (-size % each, 0)]
    if not torch.jit.is_tracing() and not any(amounts):
        return x
    return F.pad(x, amounts[::-1], mode="replicate")  # in a trace always, so that it takes sizes that do need it
