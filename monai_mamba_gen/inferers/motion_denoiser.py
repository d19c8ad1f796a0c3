"""The denoiser that samples a motion: while the noise is high its own prediction, then the deformed first frame."""

from __future__ import annotations

import torch
from monai.networks.schedulers import Scheduler
from monai.networks.schedulers.ddpm import DDPMPredictionType
from torch import nn

__all__ = ["MotionDenoiser"]


class MotionDenoiser(nn.Module):
    """
    What a sampler calls to draw an end-systolic (ES) volume, and with it a latent code, from noise.

    A deformable diffusion model says two things of a noisy ES volume: what it is without its noise, and how the
    end-diastolic (ED) volume has to move to get there. The first decides while the noise is high. Below
    ``warp_timestep`` the second takes its place: the denoised volume is the ED volume deformed, which is sharp and has
    the patient's anatomy, however little the denoiser was trained; what the sampler needs as prediction follows from
    it. Below ``code_timestep`` the motion is settled, and the network is not asked any more.

    Args:
        network: a `DeformableDiffusion` network.
        scheduler: of the sampling; for its noise schedule and prediction type.
        warp_timestep: see above; 0: never.
        code_timestep: see above; 0: the network is asked at every step.

    Attributes:
        code: the latent code of the last step that asked the network, (N, C, H, W, D).

    Example:
        >>> from monai_mamba_gen.networks.nets import cine_model
        >>> from monai_mamba_gen.networks.schedulers import RespacedDDIMScheduler
        >>> network = cine_model("mstg", {"channels": (4, 4)}, channels=(4, 4))  # untrained: nothing moves
        >>> denoiser = MotionDenoiser(network, RespacedDDIMScheduler(100, prediction_type="sample"), 50, 10)
        >>> ed = torch.rand(1, 1, 8, 8, 4)
        >>> context = torch.cat([ed, -torch.ones_like(ed)], dim=1)
        >>> torch.allclose(denoiser(torch.randn(1, 1, 8, 8, 4), torch.tensor([30]), context), ed, atol=1e-3)
        True
    """

    def __init__(self, network: nn.Module, scheduler: Scheduler, warp_timestep: int, code_timestep: int) -> None:
        super().__init__()
        self.network = network
        self.scheduler = scheduler
        self.warp_timestep, self.code_timestep = warp_timestep, code_timestep
        self.code: torch.Tensor | None = None
        self._warped: torch.Tensor | None = None

    def forward(
        self, x: torch.Tensor, timesteps: torch.Tensor | None = None, context: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        Return the prediction of one step.

        Args:
            x: noisy ES volumes, (N, 1, H, W, D).
            timesteps: (N,) integers, all the same.
            context: ED volumes, and -1 for the ES volumes, (N, 2, H, W, D).
        """
        timestep = int(timesteps[0])
        if self.code is None or timestep >= self.code_timestep:
            prediction, self.code = self.network.predict(x, timesteps, context)
            self._warped = None
            if timestep >= self.warp_timestep:
                return prediction
        if self._warped is None:
            end = torch.ones(1, device=x.device)
            self._warped = self.network.animate(context[:, :1], None, self.code, end)[0]  # (N, 1, H, W, D)
        return self._prediction(x, self._warped.to(x), timestep)

    def _prediction(self, x: torch.Tensor, volume: torch.Tensor, timestep: int) -> torch.Tensor:
        """Return what a network would have to predict for ``volume`` to be x without its noise."""
        kind = self.scheduler.prediction_type
        if kind == DDPMPredictionType.SAMPLE:
            return volume
        signal = self.scheduler.alphas_cumprod[timestep].to(x)
        noise = (x - signal.sqrt() * volume) / (1 - signal).sqrt()
        if kind == DDPMPredictionType.V_PREDICTION:
            return signal.sqrt() * noise - (1 - signal).sqrt() * volume
        return noise
