"""What tells a network which frame of a cine it sees: given or noisy, how noisy, and when in the beat."""

from __future__ import annotations

import torch
from monai.networks.nets.diffusion_model_unet import get_timestep_embedding
from torch import nn

from .embeddings import ConditionEmbedding

__all__ = ["FrameEmbedding"]


class FrameEmbedding(nn.Module):
    """
    One condition vector for each frame: diffusion time, role and phase.

    Frames stand in the order of time: the first reference frame (end diastole), the noisy frames, the other reference
    frames (end systole). Reference frames are clean, so their diffusion time is 0; each has a learned vector, as the
    noisy frames have together. The phase runs from 0 (end diastole) to 1 (end systole); n noisy frames stand at
    1/n, 2/n .. 1, so that a single one is an end-systolic frame, as in DDM.

    Args:
        channels: number of sinusoids of time and of phase.
        embedding_channels: size of the vectors.
        context_frames: number of reference frames.

    Example:
        >>> FrameEmbedding(8, 16, context_frames=2)(torch.tensor([3.0, 9.0]), 5).shape
        torch.Size([2, 7, 16])
    """

    def __init__(self, channels: int, embedding_channels: int, context_frames: int = 2) -> None:
        super().__init__()
        self.channels, self.context_frames = channels, context_frames
        self.time = ConditionEmbedding(channels, embedding_channels)
        self.phase = nn.Linear(channels, embedding_channels)
        self.role = nn.Parameter(0.02 * torch.randn(context_frames + 1, embedding_channels))  # the last: noisy frames

    def forward(self, timesteps: torch.Tensor, frames: int) -> torch.Tensor:
        """timesteps (N,), number n of noisy frames -> (N, context_frames + n, E)."""
        before = min(self.context_frames, 1)
        after = self.context_frames - before
        noisy = self.time(timesteps)[:, None].expand(-1, frames, -1)  # (N, n, E)
        clean = self.time(torch.zeros_like(timesteps))[:, None]
        given = [clean.expand(-1, count, -1) for count in (before, after)]
        time = torch.cat([given[0], noisy, given[1]], dim=1)  # (N, M + n, E)
        role = torch.cat(
            [self.role[:before], self.role[-1:].expand(frames, -1), self.role[before : self.context_frames]]
        )
        phase = torch.arange(1, frames + 1, device=time.device) / frames
        phase = torch.cat([phase.new_zeros((before,)), phase, phase.new_ones((after,))])
        phase = get_timestep_embedding(1000 * phase, self.channels).to(time.dtype)  # (M + n, channels)
        return time + role + self.phase(phase)
