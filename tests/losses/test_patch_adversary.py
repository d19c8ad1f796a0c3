"""What the discriminator says and learns."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import PatchDiscriminator
from torch import nn

from monai_mamba_gen.losses import PatchAdversary


class Says(nn.Module):
    """Patch values 3 for bright images and -2 for dark ones, as the last of a list."""

    def forward(self, images):
        return [images, torch.where(images.mean((1, 2, 3), keepdim=True) > 0, 3.0, -2.0) + 0 * images]


BRIGHT, DARK = torch.ones(2, 1, 4, 4), -torch.ones(2, 1, 4, 4)


def test_least_squares_by_hand():
    adversary = PatchAdversary(Says())
    assert float(adversary(BRIGHT)) == 4.0 and float(adversary(DARK)) == 9.0  # (v - 1)^2
    assert float(adversary.discriminator_loss(DARK, BRIGHT)) == 0.5 * (4.0 + 4.0)  # (-2)^2 and (3 - 1)^2


@pytest.mark.parametrize("criterion", ["least_squares", "hinge", "bce"])
def test_a_discriminator_learns_to_tell_and_pulls_the_fakes(criterion):
    torch.manual_seed(0)
    adversary = PatchAdversary(PatchDiscriminator(2, channels=4, in_channels=1, num_layers_d=1), criterion)
    real, fake = torch.rand(8, 1, 16, 16), torch.rand(8, 1, 16, 16) * 0.2
    optimizer = torch.optim.Adam(adversary.discriminator.parameters(), lr=1e-2)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = adversary.discriminator_loss(fake, real)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    fake.requires_grad_()
    before = adversary(fake)
    (gradient,) = torch.autograd.grad(before, fake)
    assert float(adversary(fake - 0.5 * gradient / gradient.abs().max())) < float(before)


def test_inactive_and_detached():
    adversary = PatchAdversary(PatchDiscriminator(2, channels=4, in_channels=1, num_layers_d=1))
    fake = torch.rand(2, 1, 16, 16, requires_grad=True)

    adversary.discriminator_loss(fake, fake.detach()).backward()
    assert fake.grad is None
    adversary.active = False
    adversary(fake).backward()
    assert float(fake.grad.abs().sum()) == 0
