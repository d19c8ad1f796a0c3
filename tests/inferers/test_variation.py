"""Variants of an image (SDEdit): exact means and variances, what they depend on, and errors."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.networks.schedulers import DDIMScheduler
from torch import nn

from monai_mamba_gen.inferers import SamplingInferer
from monai_mamba_gen.inferers.variation import checked_strength, skipped_steps, start_of_sampling
from monai_mamba_gen.networks.blocks import SS2D
from monai_mamba_gen.networks.schedulers import RespacedDDIMScheduler, RespacedDDPMScheduler

SCHEDULERS = [RespacedDDPMScheduler, RespacedDDIMScheduler, DDIMScheduler]
MEAN, DEVIATION = 0.1, 0.2


class GaussianNet(nn.Module):
    """Predicts the expected noise in an image whose pixels are independent, of mean 0.1 and deviation 0.2."""

    num_class_embeds = None

    def __init__(self, scheduler):
        super().__init__()
        self.powers = scheduler.alphas_cumprod.clone()
        self.timesteps = []

    def forward(self, x, timesteps=None, context=None):
        self.timesteps.append(int(timesteps[0]))
        power = float(self.powers[self.timesteps[-1]])
        return (1 - power) ** 0.5 * (x - power**0.5 * MEAN) / (power * DEVIATION**2 + 1 - power)


class ScanNet(nn.Module):
    """A convolution and a scan in random order, with labels."""

    num_class_embeds = 3

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.scan = SS2D(4, d_state=2, sequence_regeneration="always")
        self.last = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x, timesteps=None, context=None):
        hidden = self.first(x) + timesteps.to(x).view(-1, 1, 1, 1) / 1000
        hidden = hidden if context is None else hidden + context.to(x).view(-1, 1, 1, 1)
        return self.last(hidden + self.scan(hidden))


def images(count=3, size=8):
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def inferer(scheduler=RespacedDDIMScheduler, steps=5, **kwargs):
    return SamplingInferer(scheduler(20), steps, progress=False, **kwargs)


@pytest.mark.parametrize("strength", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("make", [RespacedDDPMScheduler, RespacedDDIMScheduler])
def test_of_a_gaussian_mean_variance_and_correlation_are_exact(make, strength):
    """Noised to signal power a and denoised: worked out by hand, for the sampler with noise and the one without."""
    scheduler = make(1000, clip_sample=False)
    value, size = 0.5, 96
    result = SamplingInferer(scheduler, 1000, progress=False, strength=strength)(
        torch.full((1, 1, size, size), value), GaussianNet(scheduler), seeds=[3]
    )
    power = float(scheduler.alphas_cumprod[round(1000 * strength) - 1])
    total = power * DEVIATION**2 + 1 - power
    if make is RespacedDDIMScheduler:
        slope, spread = DEVIATION * (power / total) ** 0.5, DEVIATION * ((1 - power) / total) ** 0.5
    else:
        slope = power * DEVIATION**2 / total
        posterior = DEVIATION**2 * (1 - power) / total
        spread = (posterior + slope**2 * (1 - power) / power) ** 0.5
    assert float(result.mean()) == pytest.approx(MEAN + slope * (value - MEAN), abs=4 * spread / size)
    assert float(result.std()) == pytest.approx(spread, rel=0.04)


def correlation(first, second):
    return float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])


@pytest.mark.parametrize("steps", [7, 50])
@pytest.mark.parametrize("make", SCHEDULERS)
def test_likeness_to_the_image_falls_with_strength(make, steps):
    scheduler = make(1000 if make is not DDIMScheduler else steps * 10, clip_sample=False)
    network = GaussianNet(scheduler)
    sampler = SamplingInferer(scheduler, steps, progress=False)
    image = MEAN + DEVIATION * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    likeness = [correlation(image, sampler(image, network, seeds=[4], strength=s)) for s in (0.1, 0.22, 1.0)]
    assert likeness[0] > likeness[1] + 0.1 and likeness[1] > 0.05 > abs(likeness[2])


@pytest.mark.parametrize("make", SCHEDULERS)
def test_strength_1_is_no_strength_bit_for_bit(make):
    network, inputs = ScanNet(), images()
    plain = inferer(make)(torch.zeros_like(inputs), network)
    assert torch.equal(inferer(make, strength=1.0)(inputs, network), plain)
    assert torch.equal(inferer(make, strength=0.4)(inputs, network, strength=1), plain)
    assert not torch.equal(inferer(make, strength=0.99)(inputs, network), plain)


@pytest.mark.parametrize(("strength", "expected"), [(0.2, [0]), (0.41, [8, 0]), (0.7, [12, 8, 4, 0]), (0.01, [0])])
def test_runs_the_steps_that_are_left(strength, expected):
    sampler = inferer(strength=strength)
    network = GaussianNet(sampler.scheduler)
    sampler(images(), network)
    sampler.scheduler.set_timesteps(5)
    left = sampler.scheduler.timesteps.tolist()[-len(expected) :]
    assert network.timesteps == left


@pytest.mark.parametrize("make", SCHEDULERS)
def test_depends_on_image_and_seed_not_on_the_batch(make):
    network, inputs, sampler = ScanNet(), images(), inferer(make, strength=0.6)
    together = sampler(inputs, network, seeds=[5, 6, 7])
    assert torch.equal(sampler(inputs, network, seeds=[5, 6, 7]), together)
    alone = torch.cat([sampler(inputs[n : n + 1], network, seeds=[5 + n]) for n in range(3)])
    assert (alone - together).abs().max() <= 1e-5
    assert (sampler(inputs, network, seeds=[8, 6, 7])[0] - together[0]).abs().max() > 1e-2
    assert (sampler(-inputs, network, seeds=[5, 6, 7]) - together).abs().max() > 1e-2


def test_works_under_guidance_and_keeps_geometry():
    inputs = MetaTensor(images(), affine=torch.diag(torch.tensor([1.5, 1.5, 1.0, 1.0])))
    settings = {"guidance_scale": 2.0, "class_label": 1}
    made = {s: inferer(strength=s, **settings)(inputs, ScanNet(), seeds=[0, 1, 2]) for s in (0.2, 0.6, 1.0)}
    assert all(isinstance(each, MetaTensor) and torch.equal(each.affine, inputs.affine) for each in made.values())
    other = inferer(strength=0.6, guidance_scale=2.0, class_label=2)(inputs, ScanNet(), seeds=[0, 1, 2])
    assert not torch.equal(other, made[0.6]) and not torch.equal(made[0.2], made[0.6])


def test_is_told_in_the_settings_of_an_image():
    assert inferer(strength=0.3).describe()["strength"] == 0.3
    assert "strength" not in inferer(strength=1.0).describe()  # images made before are still of the same settings


def test_the_schedule_stays_as_it_is():
    scheduler = DDIMScheduler(20)
    before = scheduler.alphas_cumprod.clone()
    SamplingInferer(scheduler, 5, progress=False, strength=0.5)(images().bfloat16(), GaussianNet(scheduler))
    assert scheduler.alphas_cumprod.dtype == before.dtype and torch.equal(scheduler.alphas_cumprod, before)


@pytest.mark.parametrize("strength", [0, 0.0, -0.1, 1.01, float("nan"), float("inf"), True, "0.5", [0.5]])
def test_bad_strength(strength):
    for call in (lambda: inferer(strength=strength), lambda: inferer()(images(), ScanNet(), strength=strength)):
        with pytest.raises(ValueError, match=r"strength must be a number above 0 and up to 1, or None, got") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_inputs_that_are_not_finite_are_named_where_they_matter():
    inputs = images()
    inputs[1, 0, 2, 2] = float("nan")
    assert inferer()(inputs, ScanNet()).isfinite().all()
    with pytest.raises(ValueError, match="starts from the inputs, and some of their values are not finite"):
        inferer(strength=0.5)(inputs, ScanNet())


def test_integers_are_images_too():
    result = inferer(strength=0.5)(torch.ones(1, 1, 8, 8, dtype=torch.int16), ScanNet())
    assert result.dtype == torch.float32 and result.isfinite().all()


def test_parts():
    assert checked_strength(1) is None and checked_strength(0.5) == 0.5
    assert [skipped_steps(50, strength) for strength in (None, 0.2, 0.5, 0.9, 0.999)] == [0, 40, 25, 5, 0]
    scheduler = RespacedDDIMScheduler(1000)
    scheduler.set_timesteps(10)
    noise = torch.zeros(1, 1, 2, 2)
    image, first = start_of_sampling(torch.ones(1, 1, 2, 2), noise, scheduler, 0.5)
    expected = float(scheduler.alphas_cumprod[int(scheduler.timesteps[5])]) ** 0.5
    assert first == 5 and torch.allclose(image, torch.full_like(image, expected))
    assert start_of_sampling(torch.ones(1, 1, 2, 2), noise, scheduler, None)[0] is noise
