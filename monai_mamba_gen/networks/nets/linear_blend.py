"""Linear blending of two frames, the baseline that no network should lose to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..blocks.displacement import at_least_float32, warp_frames
from ..blocks.phases import expand_phases

__all__ = ["LinearBlend"]


class LinearBlend(nn.Module):
    """
    Blend end diastole into end systole: ``(1 - p) * ED + p * ES``. No parameters, nothing moves.

    It has the methods of `DeformableDiffusion` that inferers call, so that it is scored the same way.

    Example:
        >>> blend = LinearBlend()
        >>> ed, es = torch.zeros(1, 1, 4, 4, 2), torch.ones(1, 1, 4, 4, 2)
        >>> frames, displacement = blend.animate(ed, es, es, [0.0, 0.25, 1.0])
        >>> frames[0, :, 0, 0, 0]
        tensor([0.0000, 0.2500, 1.0000])
    """

    code_channels = 0
    denoiser = None

    def predict(
        self, x: torch.Tensor | None, timesteps: torch.Tensor | None = None, context: torch.Tensor | None = None
    ) -> tuple[None, torch.Tensor]:
        """Return no prediction, and end systole (N, 1, H, W, D) of ``context`` (N, 2, H, W, D) as code."""
        if context is None or context.ndim != 5 or context.shape[1] < 2:
            given = None if context is None else tuple(context.shape)
            raise ValueError(f"context must be (N, 2, H, W, D), end diastole and end systole, got {given}")
        return None, context[:, 1:2]

    def displacement(
        self, source: torch.Tensor, code: torch.Tensor, phases: torch.Tensor | Sequence[float] | float
    ) -> torch.Tensor:
        """Return zeros, (N, P, 3, H, W, D)."""
        phases = expand_phases(phases, source)
        return phases.new_zeros((*phases.shape, 3, *source.shape[2:]))

    def warp(self, volume: torch.Tensor, displacement: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
        """Warp a volume (N, 1, H, W, D) as `DeformableDiffusion.warp` does: (N, P, H, W, D)."""
        return warp_frames(volume, displacement, mode)

    @torch.no_grad()
    def animate(
        self,
        source: torch.Tensor,
        target: torch.Tensor,
        code: torch.Tensor | None,
        phases: torch.Tensor | Sequence[float] | float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Return the blended frames (N, P, H, W, D) and a displacement of zero (N, P, 3, H, W, D).

        Args:
            source: end diastole, (N, 1, H, W, D).
            target: end systole, (N, 1, H, W, D).
            code: not used.
            phases: 0 end diastole, 1 end systole; (P,) or (N, P).
        """
        if target is None or target.shape != source.shape:
            given = None if target is None else tuple(target.shape)
            raise ValueError(f"target must be {tuple(source.shape)} like source, got {given}")
        weights = expand_phases(phases, source)[:, :, None, None, None]
        return at_least_float32(source) * (1 - weights) + at_least_float32(target) * weights, self.displacement(
            source, code, phases
        )

    def forward(self, *args, **kwargs) -> dict:
        """Raise ValueError: a trainer must not be given this."""
        raise ValueError("linear blending has nothing to train")
