"""The loss of diffusion networks that learn the variance of their steps, too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from monai.utils import unsqueeze_right
from torch import nn

__all__ = ["HybridDiffusionLoss"]

_PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")
_NEEDED = ("clean", "noisy", "timesteps")


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else x.float()


class HybridDiffusionLoss(nn.Module):
    """
    Squared error of the prediction and variational bound of the variance (Nichol and Dhariwal, ICML 2021, section 3.1).

    ``L_hybrid = L_simple + vlb_weight * L_vlb``. A network that predicts C channels gets ``L_simple`` alone, the mean
    squared error. Of one that predicts 2 C channels the last C are ``v``: the variance of the step from x_t to x_(t-1)
    is ``exp(w log beta_t + (1 - w) log beta~_t)`` with ``w = (v + 1) / 2`` (equation 15; MONAI's and our schedulers'
    ``variance_type="learned_range"``), beta~ being the posterior's. ``L_vlb`` is the sum of the bound's T terms,
    estimated as T times the term at the drawn timestep, in bits for each element:

    - t > 0: Kullback-Leibler divergence from the posterior ``q(x_(t-1) | x_t, x_0)`` to the network's Gaussian;
    - t = 0: ``-log p(x_0 | x_1)`` under that Gaussian as a density, with beta~_0 = 0 replaced by beta~_1. The paper
      counts 8-bit grey values there; latents have no such steps.

    The bound sees the mean without its gradient, so it trains the variance alone. float32 also under autocast.

    Args:
        scheduler: noise scheduler of the training; its ``betas`` and ``prediction_type`` are read.
        vlb_weight: weight of the bound; the paper's is 0.001, which at T = 1000 is once the drawn term.

    After a call ``parts`` holds ``"loss"`` and, where variances are learned, ``"simple"`` and ``"vlb"`` (the drawn term
    in bits for each element, before weight and T).

    Raises:
        ValueError: when ``vlb_weight`` is negative or the prediction type unknown.

    Example:
        >>> from monai.networks.schedulers import DDPMScheduler
        >>> loss = HybridDiffusionLoss(DDPMScheduler(1000))
        >>> noise = torch.randn(2, 4, 8, 8)
        >>> loss(noise, {"prediction": noise})
        tensor(0.)
    """

    def __init__(self, scheduler: Any, vlb_weight: float = 0.001) -> None:
        super().__init__()
        self.prediction_type = str(scheduler.prediction_type)
        if self.prediction_type not in _PREDICTION_TYPES:
            raise ValueError(f"prediction_type must be one of {_PREDICTION_TYPES}, got {self.prediction_type!r}")
        if not vlb_weight >= 0:
            raise ValueError(f"vlb_weight must be at least 0, got {vlb_weight!r}")
        self.vlb_weight = float(vlb_weight)
        # The schedule follows from the one in the weights' settings: nothing for a state dict.
        for name, value in self._schedule(scheduler.betas.detach().double()).items():
            self.register_buffer(name, value, persistent=False)
        self._parts: dict[str, torch.Tensor] = {}

    @staticmethod
    def _schedule(betas: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what the bound needs at each timestep, worked out in float64 and kept in float32."""
        power = torch.cumprod(1 - betas, 0)
        before = torch.cat([power.new_ones(1), power[:-1]])
        posterior = betas * (1 - before) / (1 - power)
        posterior[0] = posterior[1] if len(posterior) > 1 else betas[0]  # of the last step it is 0
        table = {
            "signal": power.sqrt(),
            "spread": (1 - power).sqrt(),
            "original_weight": before.sqrt() * betas / (1 - power),
            "log_small": posterior.log(),
            "log_large": betas.log(),
        }
        return {name: value.float() for name, value in table.items()}

    @property
    def parts(self) -> dict[str, float]:
        """The terms of the last call by name, and the whole as ``"loss"``."""
        return {name: float(value) for name, value in self._parts.items()}

    def forward(self, output: torch.Tensor, target: Mapping[str, torch.Tensor] | torch.Tensor) -> torch.Tensor:
        """
        Return the loss, a scalar.

        Args:
            output: the network's, (N, C, ...) or (N, 2 C, ...).
            target: ``"prediction"`` (N, C, ...), what the first C channels should be; for 2 C channels also ``"clean"``
                (x_0) and ``"noisy"`` (x_t), of that shape, and ``"timesteps"`` (N,). For C channels the tensor alone
                will do.

        Raises:
            ValueError: when shapes do not fit or a key is missing.
        """
        truth = self._target(target, "prediction") if isinstance(target, Mapping) else target
        channels = truth.shape[1]
        doubled = (truth.shape[0], 2 * channels, *truth.shape[2:])
        if tuple(output.shape) not in (tuple(truth.shape), doubled):
            raise ValueError(f"output must be {tuple(truth.shape)} or {doubled}, got {tuple(output.shape)}")
        with torch.autocast(output.device.type, enabled=False):
            output, truth = _wide(output), _wide(truth)
            simple = F.mse_loss(output[:, :channels], truth)
            terms = {"loss": simple}
            if output.shape[1] != channels:
                if not isinstance(target, Mapping):
                    raise ValueError(f"target must be a dictionary with {_NEEDED} where the variance is learned")
                bound = self._bound(output[:, :channels].detach(), output[:, channels:], target)
                terms = {"simple": simple, "vlb": bound}
                terms["loss"] = simple + self.vlb_weight * len(self.signal) * bound
        self._parts = {name: value.detach() for name, value in terms.items()}
        return terms["loss"]

    @staticmethod
    def _target(target: Mapping[str, torch.Tensor], key: str) -> torch.Tensor:
        if target.get(key) is None:
            raise ValueError(f"target must have {key!r}, it has {sorted(target)}")
        return target[key]

    def _bound(self, prediction: torch.Tensor, v: torch.Tensor, target: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the mean of the bound's drawn terms, in bits for each element."""
        clean, noisy, timesteps = (self._target(target, key) for key in _NEEDED)
        for key, value in {"clean": clean, "noisy": noisy}.items():
            if value.shape != prediction.shape:
                raise ValueError(f"target {key!r} must be {tuple(prediction.shape)}, got {tuple(value.shape)}")
        if timesteps.shape != prediction.shape[:1]:
            raise ValueError(f"target 'timesteps' must be ({len(prediction)},), got {tuple(timesteps.shape)}")
        clean, timesteps = _wide(clean), timesteps.long()

        def at(name: str) -> torch.Tensor:
            table = getattr(self, name)
            return unsqueeze_right(table[timesteps.to(table.device)], v.ndim).to(v)

        original = self._original(prediction, _wide(noisy), at("signal"), at("spread"))
        fraction = (v + 1) / 2
        log_variance = fraction * at("log_large") + (1 - fraction) * at("log_small")
        # Both means have the same share of x_t.
        squared = (at("original_weight") * (clean - original)).square() * torch.exp(-log_variance)
        excess = at("log_small") - log_variance
        divergence = 0.5 * (squared + torch.exp(excess) - 1 - excess)
        density = 0.5 * (squared + log_variance + math.log(2 * math.pi))  # at t = 0 the mean is the original itself
        last = unsqueeze_right(timesteps == 0, v.ndim).to(v.device)
        return torch.where(last, density, divergence).mean() / math.log(2)

    def _original(
        self, prediction: torch.Tensor, noisy: torch.Tensor, signal: torch.Tensor, spread: torch.Tensor
    ) -> torch.Tensor:
        if self.prediction_type == "sample":
            return prediction
        if self.prediction_type == "v_prediction":
            return signal * noisy - spread * prediction
        return (noisy - spread * prediction) / signal
