"""A cine network called with its two volumes alone, in one pass: what is exported and deployed."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..blocks.scriptable import frozen_copy, portable_trace

__all__ = ["InterpolationNetwork"]


class InterpolationNetwork(nn.Module):
    """
    Base of networks that deform the end-diastolic (ED) volume, with what they do for an export.

    ``network(volumes)`` is then one tensor to one tensor, as MONAI's ``verify_net_in_out``, ``ckpt_export`` and
    ``onnx_export`` want it: the interpolation of `CineInferer` with ``two_sided=False``.

    Attributes:
        num_frames: frames where no phases are named, at least 2.
        stride: a volume of so many voxels a side needs no padding.
    """

    num_frames: int = 10
    stride: int

    def interpolate(self, volumes: torch.Tensor, phases: Any = None) -> torch.Tensor:
        """
        Make the frames between two volumes, in one pass at timestep 0.

        Args:
            volumes: ED and end-systolic (ES) volume, (N, 2, H, W, D) in [-1, 1].
            phases: 0 end diastole, 1 end systole; (P,) or (N, P); None: ``num_frames`` evenly from 0 to 1.

        Returns:
            (N, P, H, W, D).

        Raises:
            ValueError: when there are other than two volumes.
        """
        if volumes.ndim != 5 or volumes.shape[1] != 2:
            raise ValueError(f"volumes must be (N, 2, H, W, D), got {tuple(volumes.shape)}")
        if phases is None:
            phases = torch.linspace(0.0, 1.0, self.num_frames, device=volumes.device)
        source, target = volumes[:, :1], volumes[:, 1:]
        _, code = self.predict(target, None, volumes)
        return self.warp(source, self.displacement(source, code, phases))

    def __prepare_scriptable__(self) -> nn.Module:
        return _Scriptable(self)


class _Code(nn.Module):
    """Volumes to the latent code of the motion."""

    def __init__(self, network: InterpolationNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network.predict(x[:, 1:], None, x)[1]


class _Frame(_Code):
    """Volumes, code and one phase a sample, (N, 1), to the frame."""

    def forward(self, x: torch.Tensor, code: torch.Tensor, phase: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return self.network.warp(x[:, :1], self.network.displacement(x[:, :1], code, phase))


class _Scriptable(nn.Module):
    """Traces of the interpolation and a loop over its frames, see `ScriptableDenoiser`; volumes may be of any size."""

    def __init__(self, network: InterpolationNetwork) -> None:
        super().__init__()
        network = frozen_copy(network)
        self.num_frames = network.num_frames
        example = torch.zeros(1, 2, *[network.stride] * 3, device=next(network.parameters()).device)
        self.code = portable_trace(_Code(network), example)
        self.frame = portable_trace(_Frame(network), example, self.code(example), example[:, 0, 0, :1, 0])

    def forward(self, x: torch.Tensor, phases: torch.Tensor | None = None) -> torch.Tensor:
        if phases is None:
            phases = torch.linspace(0.0, 1.0, self.num_frames, device=x.device)
        if phases.dim() == 1:
            phases = phases.unsqueeze(0).expand(x.shape[0], -1)
        code = self.code(x)
        frames = [self.frame(x, code, phases[:, index : index + 1]) for index in range(phases.shape[1])]
        return torch.cat(frames, dim=1)
