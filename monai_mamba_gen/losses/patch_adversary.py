"""A patch discriminator as a term of a reconstruction loss."""

from __future__ import annotations

import torch
from monai.losses import PatchAdversarialLoss
from torch import nn

__all__ = ["PatchAdversary"]


class PatchAdversary(nn.Module):
    """
    What a discriminator of patches (Isola et al. 2017, arXiv:1611.07004) says to an autoencoder, and how it learns.

    ``forward(images)`` is the term for the autoencoder: how far the patches are from being taken for real ones.
    `discriminator_loss` is what the discriminator itself is trained by, see `DiscriminatorHandler`. MONAI's
    ``AdversarialTrainer`` is not used: it takes one tensor from the generator where a latent space gives three, its
    state, which checkpoints hold, is the pickled networks themselves, and it fires none of the events that guard
    gradients and losses.

    Args:
        discriminator: network that returns patch values (N, 1, h, w), or a list of features with these last, as MONAI's
            ``PatchDiscriminator`` does; on the device of the images.
        criterion: ``"least_squares"``, ``"hinge"`` or ``"bce"``, see MONAI's ``PatchAdversarialLoss``.

    Attributes:
        active: whether ``forward`` asks the discriminator; otherwise it returns zero.

    Example:
        >>> from monai.networks.nets import PatchDiscriminator
        >>> adversary = PatchAdversary(PatchDiscriminator(2, channels=4, in_channels=1, num_layers_d=1))
        >>> images = torch.rand(2, 1, 16, 16)
        >>> adversary(images).shape, adversary.discriminator_loss(images, images).shape
        (torch.Size([]), torch.Size([]))
    """

    def __init__(self, discriminator: nn.Module, criterion: str = "least_squares") -> None:
        super().__init__()
        self.discriminator = discriminator
        # MONAI's leaky rectifier before the squares, its default, leaves fakes below zero all but unpunished.
        self.loss = PatchAdversarialLoss(criterion=criterion, no_activation_leastsq=True)
        self.active = True

    def _judged(self, images: torch.Tensor, real: bool, for_discriminator: bool) -> torch.Tensor:
        values = self.discriminator(images.contiguous())
        values = values[-1] if isinstance(values, (list, tuple)) else values
        return self.loss(values, target_is_real=real, for_discriminator=for_discriminator)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images (N, 1, H, W) -> scalar; the gradients it leaves in the discriminator mean nothing."""
        return self._judged(images, real=True, for_discriminator=False) if self.active else 0.0 * images.sum()

    def discriminator_loss(self, reconstruction: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Return what the discriminator is trained by, a scalar; no gradient reaches the reconstruction."""
        fakes = self._judged(reconstruction.detach(), real=False, for_discriminator=True)
        return 0.5 * (fakes + self._judged(images, real=True, for_discriminator=True))
