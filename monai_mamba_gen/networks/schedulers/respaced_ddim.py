"""DDIM's deterministic sampling, right at any number of steps."""

from __future__ import annotations

import torch
from monai.networks.schedulers import DDIMScheduler

from .respacing import RespacingMixin

__all__ = ["RespacedDDIMScheduler"]


class RespacedDDIMScheduler(RespacingMixin, DDIMScheduler):
    """
    Sample by Song et al.'s deterministic steps along any subset of the training timesteps.

    MONAI 1.6.1's `DDIMScheduler` spaces the timesteps ``(T - 1) / (n - 1)`` apart but steps by ``T // n``, so that
    every step removes too little noise. Where n divides T the error is small; where it does not it can be the larger
    part of the image (of an exact Gaussian of standard deviation 0.2, 600 of 1000 steps leave 0.38). Here each step
    leads to the next chosen timestep.

    Args:
        args: as for `monai.networks.schedulers.DDIMScheduler`.
        kwargs: likewise.

    Example:
        >>> scheduler = RespacedDDIMScheduler(num_train_timesteps=1000)
        >>> scheduler.set_timesteps(30)
        >>> image = torch.randn(1, 1, 8, 8)
        >>> image, predicted_original = scheduler.step(torch.randn(1, 1, 8, 8), scheduler.timesteps[0], image)
    """

    def step(  # type: ignore[override]
        self,
        model_output: torch.Tensor,
        timestep: int | torch.Tensor,
        sample: torch.Tensor,
        eta: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Step from a chosen timestep to the next lower one, without noise.

        Args:
            model_output: (N, C, ...), or (N, 2 C, ...) with a learned variance behind it, which is left out.
            timestep: the current timestep, an integer or a tensor with one element.
            sample: the image at that timestep, (N, C, ...).
            eta: must be 0; `RespacedDDPMScheduler` is the sampler with noise.
            generator: not used, there is no noise to draw.

        Returns:
            The image at the next lower timestep, and the predicted original image.

        Raises:
            ValueError: when eta is not 0.
        """
        if eta != 0:
            raise ValueError(f"eta must be 0 here, got {eta}; use RespacedDDPMScheduler to sample with noise")
        if model_output.shape[1] == 2 * sample.shape[1]:
            model_output = model_output[:, : sample.shape[1]]
        timestep = int(timestep)
        signal, previous = self.signal_power(timestep), self.previous_timestep(timestep)
        signal_previous = self.signal_power(previous) if previous >= 0 else float(self.final_alpha_cumprod)
        original = self.predict_original(model_output, timestep, sample)
        noise = model_output
        if self.prediction_type != "epsilon":
            noise = (sample - signal**0.5 * original) / (1 - signal) ** 0.5
        if self.clip_sample:
            original = original.clamp(*self.clip_sample_values)
        return signal_previous**0.5 * original + (1 - signal_previous) ** 0.5 * noise, original
