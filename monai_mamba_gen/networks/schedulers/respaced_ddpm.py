"""DDPM's ancestral sampling, right at any number of steps."""

from __future__ import annotations

import math

import torch
from monai.networks.schedulers import DDPMScheduler
from monai.networks.schedulers.ddpm import DDPMVarianceType

from .respacing import RespacingMixin

__all__ = ["RespacedDDPMScheduler"]

_MIN_VARIANCE = 1e-20


class RespacedDDPMScheduler(RespacingMixin, DDPMScheduler):
    """
    Sample by Ho et al.'s ancestral steps along any subset of the training timesteps.

    Between the chosen timesteps ``t > s`` the chain is a DDPM of its own with ``alpha = abar_t / abar_s`` (Nichol and
    Dhariwal, "Improved Denoising Diffusion Probabilistic Models", section 3.4), and the step draws from its posterior
    (Ho et al., equations 6 and 7). With all timesteps this is MONAI's `DDPMScheduler`.

    MONAI 1.6.1's `DDPMScheduler` takes ``s = t - 1`` whatever `set_timesteps` chose, so that with fewer steps than in
    training most of the noise stays in the image (unclipped, of an exact Gaussian of standard deviation 0.2, 250 of
    1000 steps leave 0.50, 50 steps 0.86); diffusers had the same error until its pull request 2076. It also
    interpolates variances where ``learned_range`` means their logarithms, cannot leave out a learned variance where its
    own is fixed, and casts its schedule in place (see `RespacingMixin`).

    Args:
        args: as for `monai.networks.schedulers.DDPMScheduler`: ``num_train_timesteps, schedule, variance_type,
            clip_sample, prediction_type, clip_sample_min, clip_sample_max`` and the schedule's own arguments.
        kwargs: likewise.

    Example:
        >>> scheduler = RespacedDDPMScheduler(num_train_timesteps=1000)
        >>> scheduler.set_timesteps(50)
        >>> image = torch.randn(1, 1, 8, 8)
        >>> image, predicted_original = scheduler.step(torch.randn(1, 1, 8, 8), scheduler.timesteps[0], image)
    """

    def _transition(self, timestep: int | torch.Tensor) -> tuple[int, float, float, float]:
        """Return the timestep before and abar there, abar here, and the beta between the two."""
        timestep = int(timestep)
        previous = self.previous_timestep(timestep)
        signal, signal_previous = self.signal_power(timestep), self.signal_power(previous)
        beta = float(self.betas[timestep]) if previous == timestep - 1 else 1 - signal / signal_previous
        return previous, signal_previous, signal, beta

    def _get_mean(self, timestep: int, x_0: torch.Tensor, x_t: torch.Tensor) -> torch.Tensor:
        """Return the mean of the posterior, equation 7 of Ho et al., for the chosen timesteps."""
        _, signal_previous, signal, beta = self._transition(timestep)
        original_weight = signal_previous**0.5 * beta / (1 - signal)
        return original_weight * x_0 + (1 - beta) ** 0.5 * (1 - signal_previous) / (1 - signal) * x_t

    def _get_variance(self, timestep: int, predicted_variance: torch.Tensor | None = None) -> torch.Tensor:
        """Return the variance of the step, a scalar or, where it is learned, a tensor like the image."""
        _, signal_previous, signal, beta = self._transition(timestep)
        smallest = max((1 - signal_previous) / (1 - signal) * beta, _MIN_VARIANCE)
        if self.variance_type == DDPMVarianceType.FIXED_LARGE:
            return torch.tensor(beta, dtype=torch.float64)
        if self.variance_type == DDPMVarianceType.LEARNED and predicted_variance is not None:
            return predicted_variance
        if self.variance_type == DDPMVarianceType.LEARNED_RANGE and predicted_variance is not None:
            fraction = (predicted_variance + 1) / 2
            return torch.exp(fraction * math.log(beta) + (1 - fraction) * math.log(smallest))
        return torch.tensor(smallest, dtype=torch.float64)

    def step(  # type: ignore[override]
        self,
        model_output: torch.Tensor,
        timestep: int | torch.Tensor,
        sample: torch.Tensor,
        generator: torch.Generator | None = None,
        noise: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Step from a chosen timestep to the next lower one.

        Args:
            model_output: (N, C, ...), or (N, 2 C, ...) with the variance behind it, which ``variance_type``
                ``"learned_range"`` (-1: the smallest, the posterior's; 1: the largest, beta; logarithms between,
                equation 15 of Nichol and Dhariwal) and ``"learned"`` use and the fixed ones leave out.
            timestep: the current timestep, an integer or a tensor with one element.
            sample: the image at that timestep, (N, C, ...).
            generator: draws the noise of this step, where ``noise`` is not given.
            noise: standard normal noise like ``sample``, for example drawn with one generator per sample.

        Returns:
            The image at the next lower timestep, and the predicted original image.

        Raises:
            ValueError: when both generator and noise are given, or the noise has another shape than the sample.
        """
        if noise is not None and generator is not None:
            raise ValueError("generator and noise exclude each other: give one of them or none")
        if noise is not None and noise.shape != sample.shape:
            raise ValueError(f"noise must have the sample's shape {tuple(sample.shape)}, got {tuple(noise.shape)}")
        timestep, predicted_variance = int(timestep), None
        if model_output.shape[1] == sample.shape[1] * 2:
            model_output, predicted_variance = model_output.split(sample.shape[1], dim=1)

        original = self.predict_original(model_output, timestep, sample)
        if self.clip_sample:
            original = original.clamp(*self.clip_sample_values)
        previous_sample = self._get_mean(timestep, original, sample)
        if self.previous_timestep(timestep) < 0:
            return previous_sample, original
        if noise is None:
            device = sample.device if generator is None else generator.device
            noise = torch.randn(sample.shape, dtype=sample.dtype, device=device, generator=generator).to(sample.device)
        deviation = self._get_variance(timestep, predicted_variance) ** 0.5
        return previous_sample + (deviation if deviation.ndim else float(deviation)) * noise, original
