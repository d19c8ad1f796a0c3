"""
Velocities to displacements, and volumes warped by them.

MONAI's ``Warp`` and ``DVF2DDF`` do the work. A displacement u is in voxels and pulls: ``warped(x) = volume(x + u(x))``.
"""

from __future__ import annotations

import functools
import warnings

import torch
import torch.nn.functional as F
from monai.networks.blocks import DVF2DDF, Warp
from torch import nn

__all__ = ["StatelessWarp", "at_least_float32", "integrate_velocity", "warp_frames"]

_MODES = ("bilinear", "nearest")


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """Return x as float32, or as float64 where it is that."""
    return x if x.dtype == torch.float64 else x.float()


class StatelessWarp(Warp):
    """
    MONAI's ``Warp`` without its memory.

    ``Warp`` makes its reference grid on the CPU and keeps it, to be met again by its shape alone, whatever the device
    and dtype are by then (in MONAI 1.6.1 the shapes are compared wrongly and never match). Here each call makes its
    own where the displacement lies. The border of the volume is repeated outside it.

    Args:
        mode: ``"bilinear"`` (trilinear for volumes) or ``"nearest"``.

    Example:
        >>> StatelessWarp()(torch.ones(1, 1, 4, 4, 4), torch.zeros(1, 3, 4, 4, 4)).sum()
        tensor(64.)
    """

    def __init__(self, mode: str = "bilinear") -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"monai\.networks\.blocks\.Warp: Using PyTorch native")
            super().__init__(mode=mode, padding_mode="border")

    def get_reference_grid(self, ddf: torch.Tensor, jitter: bool = False, seed: int = 0) -> torch.Tensor:
        """Return the voxel coordinates (1, 3, H, W, D), which broadcast over the batch of ``ddf``."""
        axes = [torch.arange(size, dtype=ddf.dtype, device=ddf.device) for size in ddf.shape[2:]]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]

    def forward(self, image: torch.Tensor, ddf: torch.Tensor) -> torch.Tensor:
        """Return ``image`` (N, C, H, W, D), each voxel taken from ``ddf`` (N, 3, H, W, D) further."""
        if not (torch.jit.is_tracing() or torch.compiler.is_exporting()):
            return super().forward(image, ddf)
        # Warp scales its grid in place (MONAI 1.6.1). In ONNX that is a scatter, whose indices onnxruntime makes
        # constants of: 2 GB for the cine network at 64 x 64 x 16 voxels. The same sums without:
        places = (self.get_reference_grid(ddf) + ddf).unbind(1)
        last = [size - 1 for size in image.shape[2:]]  # tensors in a trace
        last = [size.clamp(min=1) if isinstance(size, torch.Tensor) else max(size, 1) for size in last]
        scaled = [place * 2 / size - 1 for place, size in zip(places, last, strict=True)]
        grid = torch.stack(scaled[::-1], dim=-1)  # of the last axis first
        return F.grid_sample(
            image, grid, mode=self._interp_mode_native, padding_mode=self._padding_mode_native, align_corners=True
        )


@functools.cache
def _warp(mode: str) -> nn.Module:
    return StatelessWarp(mode)


@functools.cache
def _scaling_and_squaring(steps: int) -> nn.Module:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"monai\.networks\.blocks\.Warp: Using PyTorch native")
        layer = DVF2DDF(num_steps=steps)
    layer.warp_layer = StatelessWarp()  # with MONAI's border of zeros a translation would not stay one at the border
    return layer


def integrate_velocity(velocity: torch.Tensor, steps: int = 7) -> torch.Tensor:
    """
    Integrate a stationary velocity over unit time by scaling and squaring, in float32 (float64 for float64 input).

    Args:
        velocity: (N, 3, H, W, D), voxels.
        steps: the velocity is divided by ``2**steps`` and composed with itself ``steps`` times; 0: no integration, the
            velocity is the displacement.

    Returns:
        Displacement (N, 3, H, W, D), voxels. A constant velocity gives that constant, zero gives zero.

    Raises:
        ValueError: when ``steps`` is negative.

    Example:
        >>> integrate_velocity(torch.full((1, 3, 4, 4, 4), 0.5)).unique()
        tensor([0.5000])
    """
    if steps < 0:
        raise ValueError(f"steps must not be negative, got {steps}")
    with torch.autocast(velocity.device.type, enabled=False):
        velocity = at_least_float32(velocity)
        return _scaling_and_squaring(steps)(velocity) if steps else velocity


def _warp_one(volume: torch.Tensor, displacement: torch.Tensor, mode: str) -> torch.Tensor:
    """(N, 1, H, W, D) by (N, 3, H, W, D) -> (N, H, W, D). What does not move keeps its value to the last bit."""
    warped = _warp(mode)(volume, displacement)
    if mode == "nearest":
        return warped[:, 0]
    still = (displacement.detach() == 0).all(dim=1, keepdim=True)  # (N, 1, H, W, D)
    if torch.is_grad_enabled() and warped.requires_grad:
        kept = volume.detach() + (warped - warped.detach())  # the volume's value, the gradient of the sampling
    else:
        kept = volume
    return torch.where(still, kept, warped)[:, 0]


def warp_frames(volume: torch.Tensor, displacement: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
    """
    Warp one volume by several displacements: the frames of a cine.

    Frames are made one after another, so that memory beyond the result is that of one frame. Voxels that do not move
    keep their value exactly. Outside the volume its border is repeated. Runs in float32 also under autocast.

    Args:
        volume: (N, 1, H, W, D), floats, or labels of any type with ``mode="nearest"``.
        displacement: (N, P, 3, H, W, D), voxels: ``frame(x) = volume(x + u(x))``.
        mode: ``"bilinear"`` for grey values, ``"nearest"`` for labels.

    Returns:
        (N, P, H, W, D), float32 or float64; labels keep their type.

    Raises:
        ValueError: when shapes do not fit or there is no such mode.

    Example:
        >>> frames = warp_frames(torch.rand(1, 1, 8, 8, 4), torch.zeros(1, 10, 3, 8, 8, 4))
        >>> frames.shape
        torch.Size([1, 10, 8, 8, 4])
    """
    if mode not in _MODES:
        raise ValueError(f"mode must be one of {list(_MODES)}, got {mode!r}")
    if volume.ndim != 5 or volume.shape[1] != 1:
        raise ValueError(f"volume must be (N, 1, H, W, D), got {tuple(volume.shape)}")
    batch, _, *size = volume.shape
    expected = [batch, displacement.shape[1] if displacement.ndim == 6 else "P", 3, *size]
    if list(displacement.shape) != expected:
        raise ValueError(f"displacement must be ({', '.join(map(str, expected))}), got {tuple(displacement.shape)}")
    with torch.autocast(displacement.device.type, enabled=False):
        displacement = at_least_float32(displacement)
        source = volume.to(torch.promote_types(at_least_float32(volume).dtype, displacement.dtype))
        displacement = displacement.to(source.dtype)
        frames = torch.stack([_warp_one(source, field, mode) for field in displacement.unbind(dim=1)], dim=1)
    return frames.to(volume.dtype) if mode == "nearest" else frames
