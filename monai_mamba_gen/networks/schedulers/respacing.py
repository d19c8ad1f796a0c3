"""What a diffusion scheduler needs to step along any subset of its training timesteps, its schedule kept intact."""

from __future__ import annotations

import torch
from monai.networks.schedulers.ddpm import DDPMPredictionType
from monai.utils import unsqueeze_right

__all__ = ["RespacingMixin"]


class RespacingMixin:
    """
    Look up the schedule at the timesteps that `set_timesteps` chose; to be named before a MONAI `Scheduler`.

    MONAI 1.6.1 steps to a timestep that was not chosen (``timestep - 1`` in `DDPMScheduler`, ``timestep - T // n`` in
    `DDIMScheduler`), and its `add_noise` and `get_velocity` cast ``alphas_cumprod`` in place to the dtype of their
    input, so that one half-precision batch degrades the schedule for good. Here neither happens.
    """

    timesteps: torch.Tensor
    alphas_cumprod: torch.Tensor
    prediction_type: str

    def __init__(self, *args, **kwargs) -> None:
        allowed = [member.value for member in DDPMPredictionType]
        if kwargs.get("prediction_type", allowed[0]) not in allowed:  # MONAI's own error names neither value nor choice
            raise ValueError(f"prediction_type must be one of {allowed}, got {kwargs['prediction_type']!r}")
        super().__init__(*args, **kwargs)

    def previous_timestep(self, timestep: int | torch.Tensor) -> int:
        """Return the next lower chosen timestep, the one a step leads to; -1 after the last, which means no noise."""
        lower = self.timesteps[self.timesteps < int(timestep)]
        return int(lower.max()) if lower.numel() else -1

    def signal_power(self, timestep: int) -> float:
        """Return the cumulative product of alphas at a timestep, 1 at timestep -1."""
        return float(self.alphas_cumprod[timestep]) if timestep >= 0 else 1.0

    def predict_original(self, model_output: torch.Tensor, timestep: int, sample: torch.Tensor) -> torch.Tensor:
        """Return the image that a model output stands for, according to ``prediction_type``; not clipped."""
        signal = self.signal_power(timestep)
        if self.prediction_type == DDPMPredictionType.SAMPLE:
            return model_output
        if self.prediction_type == DDPMPredictionType.V_PREDICTION:
            return signal**0.5 * sample - (1 - signal) ** 0.5 * model_output
        return (sample - (1 - signal) ** 0.5 * model_output) / signal**0.5

    def _amplitudes(self, like: torch.Tensor, timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the amplitudes of signal and noise at (N,) timesteps, shaped to multiply ``like``."""
        power = self.alphas_cumprod.to(like.device)[timesteps.to(like.device)]
        signal = unsqueeze_right(power**0.5, like.ndim).to(like.dtype)
        return signal, unsqueeze_right((1 - power) ** 0.5, like.ndim).to(like.dtype)

    def add_noise(self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """
        Return images noised to given timesteps.

        Args:
            original_samples: images (N, C, ...).
            noise: standard normal noise of the same shape.
            timesteps: (N,) integers in ``[0, num_train_timesteps)``.
        """
        signal, spread = self._amplitudes(original_samples, timesteps)
        return signal * original_samples + spread * noise

    def get_velocity(self, sample: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Return the target of ``v_prediction`` for images (N, C, ...), noise of that shape and timesteps (N,)."""
        signal, spread = self._amplitudes(sample, timesteps)
        return signal * noise - spread * sample
