"""The order in memory in which a CPU convolves images fastest."""

from __future__ import annotations

import torch

__all__ = ["arrange_for_convolution", "uses_onednn"]

_ONEDNN = torch.backends.mkldnn.is_available()
_MOST_CHANNELS_LAST = 128


def uses_onednn(x: torch.Tensor) -> bool:
    """Whether torch leaves convolutions of such a tensor to oneDNN."""
    return _ONEDNN and x.device.type == "cpu" and x.dtype != torch.float64


def arrange_for_convolution(x: torch.Tensor, channels: int) -> torch.Tensor:
    """
    Lay out an image in memory as oneDNN's 3x3 convolutions and `SS2D` want it; the values stay the same.

    Few channels go last: convolutions take up to a quarter less time, and the tokens of `SS2D` are then no copies. Many
    channels, which come with few cells, go first: a pass back over 4 x 4 cells takes half the time so. On other devices
    nothing happens.

    Args:
        x: (N, C, H, W).
        channels: channels of the layers that follow.

    Returns:
        x, copied where its layout was another.

    Example:
        >>> arrange_for_convolution(torch.randn(2, 5, 4, 3), 5).shape
        torch.Size([2, 5, 4, 3])
    """
    if not uses_onednn(x):
        return x
    if channels > _MOST_CHANNELS_LAST:
        return x.contiguous()
    try:
        return x.contiguous(memory_format=torch.channels_last)
    except RuntimeError:  # within vmap, which knows no such layout
        return x
