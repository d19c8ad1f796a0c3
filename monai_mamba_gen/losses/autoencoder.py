"""What an autoencoder of a latent diffusion model is trained by."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["AutoencoderLoss"]

_ERRORS = {"l1": F.l1_loss, "l2": F.mse_loss}
_SMALLEST_SIGMA = 1e-10


class AutoencoderLoss(nn.Module):
    """
    Reconstruction, divergence of the posterior and, where wanted, a perceptual and an adversarial term.

    As Rombach et al. 2022 (arXiv:2112.10752, appendix G) train theirs. The terms:

    - reconstruction: mean absolute (``"l1"``) or squared (``"l2"``) error over all pixels.
    - kl: divergence of the posterior N(mean, sigma^2) from N(0, 1),
      ``0.5 * (mean^2 + sigma^2 - log(sigma^2) - 1)``, summed over the latents of a sample, divided by the number of
      values of its image, averaged over the batch. So a weight of 1e-6 means what it means in the authors' code, where
      both the error and the divergence are summed.
    - perceptual: ``perceptual(reconstruction, images)``.
    - adversarial: ``adversarial(reconstruction)``, such as `PatchAdversary`; left out where gradients are off, so that
      the losses of a validation compare.

    float32 also under autocast.

    Args:
        kl_weight: weight of the divergence.
        reconstruction: ``"l1"`` or ``"l2"``.
        perceptual: module of two images that returns their distance, such as MONAI's ``PerceptualLoss``, on the device
            of the images. Not trained.
        perceptual_weight: its weight.
        adversarial: module of a reconstruction that returns how little it looks like an image.
        adversarial_weight: its weight.

    Raises:
        ValueError: when a weight is negative or ``reconstruction`` is unknown; when called, when shapes do not fit.

    Example:
        >>> loss = AutoencoderLoss(kl_weight=1.0)
        >>> images, mean = torch.zeros(2, 1, 8, 8), torch.ones(2, 4, 2, 2)
        >>> round(loss((images + 0.5, mean, torch.ones_like(mean)), images).item(), 3), sorted(loss.parts)
        (0.625, ['kl', 'loss', 'reconstruction'])
    """

    def __init__(
        self,
        kl_weight: float = 1e-6,
        reconstruction: str = "l1",
        perceptual: nn.Module | None = None,
        perceptual_weight: float = 0.001,
        adversarial: nn.Module | None = None,
        adversarial_weight: float = 0.01,
    ) -> None:
        super().__init__()
        self.weights = {
            "reconstruction": 1.0,
            "kl": kl_weight,
            "perceptual": perceptual_weight,
            "adversarial": adversarial_weight,
        }
        if negative := {name: weight for name, weight in self.weights.items() if weight < 0}:
            raise ValueError(f"weights must not be negative, got {negative}")
        if reconstruction not in _ERRORS:
            raise ValueError(f"reconstruction must be one of {', '.join(_ERRORS)}, got {reconstruction!r}")
        self.reconstruction = reconstruction
        self.perceptual, self.adversarial = perceptual, adversarial
        self._parts: dict[str, torch.Tensor] = {}

    @property
    def parts(self) -> dict[str, float]:
        """The terms of the last call before weighting, by name, and the whole as ``"loss"``."""
        return {name: float(value) for name, value in self._parts.items()}

    def forward(
        self, output: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None], images: torch.Tensor
    ) -> torch.Tensor:
        """
        Return the weighted sum, a scalar.

        Args:
            output: what `LatentSpace` returns: reconstruction (N, 1, H, W), mean and sigma (N, C, h, w); sigma None
                where the autoencoder has no posterior, which leaves the divergence out.
            images: (N, 1, H, W).
        """
        reconstruction, mean, sigma = output
        if reconstruction.shape != images.shape:
            raise ValueError(
                f"images must be {tuple(reconstruction.shape)}, as the reconstruction is, got {tuple(images.shape)}"
            )
        with torch.autocast(images.device.type, enabled=False):
            reconstruction, images = reconstruction.float(), images.float()
            terms = {"reconstruction": _ERRORS[self.reconstruction](reconstruction, images)}
            if sigma is not None and self.weights["kl"]:
                terms["kl"] = self._divergence(mean.float(), sigma.float(), images[0].numel())
            if self.perceptual is not None and self.weights["perceptual"]:
                terms["perceptual"] = self.perceptual(reconstruction, images).mean()
            if self.adversarial is not None and self.weights["adversarial"] and torch.is_grad_enabled():
                terms["adversarial"] = self.adversarial(reconstruction)
            loss = sum(self.weights[name] * value for name, value in terms.items())
        self._parts = {name: value.detach() for name, value in {**terms, "loss": loss}.items()}
        return loss

    @staticmethod
    def _divergence(mean: torch.Tensor, sigma: torch.Tensor, pixels: int) -> torch.Tensor:
        each = 0.5 * (mean.square() + sigma.square() - 1) - sigma.clamp_min(_SMALLEST_SIGMA).log()
        return each.flatten(1).sum(dim=1).mean() / pixels
