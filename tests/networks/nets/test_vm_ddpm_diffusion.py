"""VMDDPM in the hands of MONAI's diffusion classes, and whether it learns."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from monai.inferers import DiffusionInferer
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler

from monai_mamba_gen.networks.nets import VMDDPM

SMALL = {"channels": (8, 16), "layers_per_stage": 1, "stem_stride": 2, "d_state": 4, "expand": 1}


@pytest.fixture
def scheduler() -> DDIMScheduler:
    scheduler = DDIMScheduler(num_train_timesteps=1000)
    scheduler.set_timesteps(num_inference_steps=4)
    return scheduler


def test_training_step_of_monais_inferer(scheduler):
    network = VMDDPM(**SMALL)
    images, noise = torch.randn(2, 1, 16, 16), torch.randn(2, 1, 16, 16)
    timesteps = torch.randint(0, 1000, (2,))
    prediction = DiffusionInferer(scheduler)(images, network, noise, timesteps)
    assert prediction.shape == images.shape
    F.mse_loss(prediction, noise).backward()


@pytest.mark.parametrize("cfg", [None, 2.0])
def test_sampling_with_labels(scheduler, cfg):
    network = VMDDPM(**SMALL, num_class_embeds=3).eval()
    labels = torch.tensor([0, 2])
    noise = torch.randn(2, 1, 16, 16)
    images = DiffusionInferer(scheduler).sample(noise, network, conditioning=labels, cfg=cfg, verbose=False)
    assert images.shape == noise.shape
    assert images.isfinite().all()


def test_guidance_uses_the_row_for_no_class(scheduler):
    """MONAI fills the unconditional half with -1; with a weight of zero only that half is left."""
    network = VMDDPM(**SMALL, num_class_embeds=3, sequence_regeneration="off").eval()
    noise, inferer = torch.randn(1, 1, 16, 16), DiffusionInferer(scheduler)
    guided = inferer.sample(noise, network, conditioning=torch.tensor([1]), cfg=0.0, verbose=False)
    torch.testing.assert_close(guided, inferer.sample(noise, network, verbose=False), rtol=1e-4, atol=1e-4)


def test_sampling_with_intermediates(scheduler):
    network, noise = VMDDPM(**SMALL).eval(), torch.randn(1, 1, 16, 16)
    inferer = DiffusionInferer(scheduler)
    images, steps = inferer.sample(noise, network, save_intermediates=True, intermediate_steps=250, verbose=False)
    assert images.isfinite().all()
    assert all(step.shape == noise.shape for step in steps)


def test_concatenated_condition(scheduler):
    network = VMDDPM(**SMALL, in_channels=2).eval()
    noise, condition = torch.randn(2, 1, 16, 16), torch.randn(2, 1, 16, 16)
    inferer = DiffusionInferer(scheduler)
    images = inferer.sample(noise, network, conditioning=condition, mode="concat", verbose=False)
    assert images.shape == noise.shape


def test_overfits_four_images():
    """Four fixed noisy images at fixed times: the loss more than halves in sixty steps of Adam."""
    torch.manual_seed(0)
    network = VMDDPM.from_preset("micro")
    rows = torch.linspace(-1, 1, 16)
    images = torch.stack(
        [rows[:, None] * rows, rows[:, None] + 0 * rows, -rows[:, None].abs() + rows, 0 * rows + rows[:, None] ** 2]
    )
    images, noise, timesteps = images[:, None], torch.randn(4, 1, 16, 16), torch.tensor([50, 200, 400, 700])
    noisy = DDPMScheduler(num_train_timesteps=1000).add_noise(images, noise, timesteps)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(60):
        loss = F.mse_loss(network(noisy, timesteps), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < 0.5 * losses[0]
