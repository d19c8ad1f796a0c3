"""The respaced schedulers against a truth known in closed form, and tests that fail when MONAI no longer needs them."""

from __future__ import annotations

import math

import pytest
import torch
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler, NoiseSchedules

from monai_mamba_gen.networks.schedulers import RespacedDDIMScheduler, RespacedDDPMScheduler

MEAN, DEVIATION = 0.3, 0.2
SCHEDULES = list(NoiseSchedules.names)


def gaussian_output(scheduler, timestep, x):
    """Return what a perfect network would, for data drawn from N(MEAN, DEVIATION^2)."""
    power = float(scheduler.alphas_cumprod[timestep])
    noise = (1 - power) ** 0.5 * (x - power**0.5 * MEAN) / (power * DEVIATION**2 + 1 - power)
    original = (x - (1 - power) ** 0.5 * noise) / power**0.5
    velocity = power**0.5 * noise - (1 - power) ** 0.5 * original
    return {"epsilon": noise, "sample": original, "v_prediction": velocity}[scheduler.prediction_type]


def sample_gaussian(scheduler, steps, count=20000):
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 1, generator=generator)
    for timestep in scheduler.timesteps:
        x, _ = scheduler.step(gaussian_output(scheduler, int(timestep), x), timestep, x, generator=generator)
    return x.mean().item(), x.std().item()


@pytest.mark.parametrize(("steps", "tolerance"), [(1000, 0.01), (250, 0.02), (100, 0.04), (50, 0.06)])
@pytest.mark.parametrize("scheduler", [RespacedDDPMScheduler, RespacedDDIMScheduler])
def test_exact_gaussian(scheduler, steps, tolerance):
    mean, deviation = sample_gaussian(scheduler(1000, clip_sample=False), steps)
    assert mean == pytest.approx(MEAN, abs=0.02)
    assert deviation == pytest.approx(DEVIATION, abs=tolerance)


@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction"])
@pytest.mark.parametrize("scheduler", [RespacedDDPMScheduler, RespacedDDIMScheduler])
def test_prediction_types(scheduler, prediction_type):
    mean, deviation = sample_gaussian(scheduler(1000, clip_sample=False, prediction_type=prediction_type), 250, 5000)
    assert mean == pytest.approx(MEAN, abs=0.02)
    assert deviation == pytest.approx(DEVIATION, abs=0.02)


def test_steps_that_do_not_divide():
    for scheduler in (RespacedDDPMScheduler, RespacedDDIMScheduler):
        assert sample_gaussian(scheduler(1000, clip_sample=False), 600, 5000)[1] == pytest.approx(DEVIATION, abs=0.01)


@pytest.mark.xfail(strict=True, reason="an XPASS means MONAI is fixed: drop RespacedDDPMScheduler")
def test_monai_ddpm_is_right_at_fewer_steps():
    assert sample_gaussian(DDPMScheduler(1000, clip_sample=False), 250)[1] == pytest.approx(DEVIATION, abs=0.02)


@pytest.mark.xfail(strict=True, reason="an XPASS means MONAI is fixed: drop RespacedDDIMScheduler")
def test_monai_ddim_is_right_at_600_steps():
    assert sample_gaussian(DDIMScheduler(1000, clip_sample=False), 600)[1] == pytest.approx(DEVIATION, abs=0.02)


@pytest.mark.xfail(strict=True, reason="an XPASS means MONAI is fixed: drop RespacingMixin.add_noise, get_velocity")
@pytest.mark.parametrize("method", ["add_noise", "get_velocity"])
def test_monai_keeps_its_schedule(method):
    scheduler, before = DDPMScheduler(100), DDPMScheduler(100).alphas_cumprod
    half = torch.ones(2, 1, 4, 4, dtype=torch.float16)
    getattr(scheduler, method)(half, half, torch.tensor([1, 50]))
    assert torch.equal(scheduler.alphas_cumprod, before)


@pytest.mark.parametrize("method", ["add_noise", "get_velocity"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_schedule_is_kept(method, dtype):
    scheduler, monai = RespacedDDPMScheduler(100), DDPMScheduler(100)
    before = {name: value.clone() for name, value in vars(scheduler).items() if isinstance(value, torch.Tensor)}
    a, b = torch.randn(2, 2, 1, 4, 4).to(dtype)
    timesteps = torch.tensor([1, 50])
    result = getattr(scheduler, method)(a, b, timesteps)
    assert result.dtype == dtype
    for name, value in before.items():
        assert getattr(scheduler, name).dtype == value.dtype and torch.equal(getattr(scheduler, name), value)
    if dtype == torch.float32:
        assert torch.equal(result, getattr(monai, method)(a, b, timesteps))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_all_steps_equal_monai(schedule, variance):
    ours = RespacedDDPMScheduler(100, schedule, variance_type=variance)
    theirs = DDPMScheduler(100, schedule, variance_type=variance)
    sample, output = torch.randn(2, 3, 1, 4, 4).clamp(-1, 1)
    for timestep in (99, 57, 1, 0):
        a = ours.step(output, timestep, sample, generator=torch.Generator().manual_seed(1))
        b = theirs.step(output, timestep, sample, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_posterior_by_bayes():
    """The step between chosen timesteps is q(x_s | x_t, x_0), worked out here from the two marginals by Bayes' rule."""
    scheduler = RespacedDDPMScheduler(1000)
    scheduler.set_timesteps(10)
    t, s = (int(value) for value in scheduler.timesteps[4:6])
    power_t, power_s = (float(scheduler.alphas_cumprod[value]) for value in (t, s))
    ratio, x_0, x_t = (power_t / power_s) ** 0.5, torch.tensor([0.7]), torch.tensor([-0.4])
    precision = 1 / (1 - power_s) + ratio**2 / (1 - ratio**2)
    mean = (power_s**0.5 * x_0 / (1 - power_s) + ratio * x_t / (1 - ratio**2)) / precision
    torch.testing.assert_close(scheduler._get_mean(t, x_0, x_t), mean, rtol=1e-5, atol=1e-6)
    assert float(scheduler._get_variance(t)) == pytest.approx(1 / precision, rel=1e-5)


def test_learned_range_interpolates_logarithms():
    scheduler = RespacedDDPMScheduler(1000, variance_type="learned_range")
    scheduler.set_timesteps(100)
    timestep = int(scheduler.timesteps[-2])
    small, middle, large = (float(scheduler._get_variance(timestep, torch.tensor(v))) for v in (-1.0, 0.0, 1.0))
    assert middle == pytest.approx((small * large) ** 0.5, rel=1e-5)
    power = float(scheduler.alphas_cumprod[timestep])
    assert large == pytest.approx(1 - power / float(scheduler.alphas_cumprod[0]), rel=1e-3)
    sample, noise = torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4)
    output = torch.cat([torch.zeros_like(sample), torch.ones_like(sample)], 1)
    stepped, _ = scheduler.step(output, timestep, sample, noise=noise)
    torch.testing.assert_close(stepped, torch.full_like(stepped, large**0.5), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("v", [-1.0, 1.0])
def test_learned_range_at_its_ends_equals_monai_at_all_steps(v):
    """In between MONAI interpolates variances, not their logarithms."""
    ours, theirs = (each(100, variance_type="learned_range") for each in (RespacedDDPMScheduler, DDPMScheduler))
    sample, mean = torch.randn(2, 3, 2, 4, 4).clamp(-1, 1)
    output = torch.cat([mean, torch.full_like(mean, v)], dim=1)
    for timestep in (99, 57, 1, 0):
        a = ours.step(output, timestep, sample, generator=torch.Generator().manual_seed(1))
        b = theirs.step(output, timestep, sample, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def learned_output(scheduler, timestep, x):
    """Mean and variance of a perfect network: the step of a Gaussian is a Gaussian of known variance."""
    mean = gaussian_output(scheduler, timestep, x)
    _, power_s, power_t, beta = scheduler._transition(timestep)
    posterior = (1 - power_s) / (1 - power_t) * beta
    if posterior == 0:  # the last step is without noise
        return torch.cat([mean, torch.zeros_like(x)], dim=1)
    unknown = DEVIATION**2 * (1 - power_t) / (power_t * DEVIATION**2 + 1 - power_t)  # of x_0, given x_t
    variance = posterior + power_s * (beta / (1 - power_t)) ** 2 * unknown
    fraction = math.log(variance / posterior) / math.log(beta / posterior)
    assert -1e-6 <= fraction <= 1 + 1e-6
    return torch.cat([mean, torch.full_like(x, 2 * fraction - 1)], dim=1)


@pytest.mark.parametrize("steps", [3, 10, 100])
def test_learned_variance_makes_few_steps_exact(steps):
    scheduler = RespacedDDPMScheduler(1000, variance_type="learned_range", clip_sample=False)
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20000, 1, generator=generator)
    for timestep in scheduler.timesteps.tolist():
        x, _ = scheduler.step(learned_output(scheduler, timestep, x), timestep, x, generator=generator)
    assert x.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert x.std().item() == pytest.approx(DEVIATION, abs=0.005)
    if steps < 100:  # a fixed variance is wrong by much more
        fixed = sample_gaussian(RespacedDDPMScheduler(1000, clip_sample=False), steps)[1]
        assert abs(fixed - DEVIATION) > 0.02


@pytest.mark.parametrize("channels", [1, 4])
def test_a_learned_variance_is_left_out_where_it_is_not_asked_for(channels):
    sample, mean, v = torch.randn(3, 2, channels, 4, 4)
    noise = torch.randn_like(sample)
    for variance in ("fixed_small", "fixed_large"):
        ddpm = RespacedDDPMScheduler(100, variance_type=variance)
        with_variance = ddpm.step(torch.cat([mean, v], dim=1), 50, sample, noise=noise)
        torch.testing.assert_close(with_variance, ddpm.step(mean, 50, sample, noise=noise), rtol=0, atol=0)
    ddim = RespacedDDIMScheduler(100)
    ddim.set_timesteps(10)
    both = (ddim.step(each, ddim.timesteps[3], sample) for each in (torch.cat([mean, v], dim=1), mean))
    torch.testing.assert_close(*both, rtol=0, atol=0)


def test_noise_given_by_the_caller():
    scheduler = RespacedDDPMScheduler(100)
    scheduler.set_timesteps(10)
    sample, output = torch.randn(2, 3, 1, 4, 4)
    noise = torch.randn(sample.shape, generator=torch.Generator().manual_seed(3))
    given = scheduler.step(output, scheduler.timesteps[2], sample, noise=noise)[0]
    drawn = scheduler.step(output, int(scheduler.timesteps[2]), sample, torch.Generator().manual_seed(3))[0]
    assert torch.equal(given, drawn)
    assert torch.equal(scheduler.step(output, 0, sample)[0], scheduler.step(output, 0, sample, noise=noise)[0])


def test_errors():
    scheduler, sample = RespacedDDPMScheduler(10), torch.zeros(2, 1, 4, 4)
    with pytest.raises(ValueError, match="sample's shape"):
        scheduler.step(sample, 5, sample, noise=sample[:1])
    with pytest.raises(ValueError, match="exclude each other"):
        scheduler.step(sample, 5, sample, generator=torch.Generator(), noise=sample)
    with pytest.raises(ValueError, match="eta must be 0"):
        RespacedDDIMScheduler(10).step(sample, 5, sample, eta=0.5)
    with pytest.raises(ValueError, match="num_inference_steps"):
        scheduler.set_timesteps(11)


def test_clipping():
    for scheduler in (RespacedDDPMScheduler(10), RespacedDDIMScheduler(10)):
        _, original = scheduler.step(torch.zeros(1, 1, 2, 2), 5, torch.full((1, 1, 2, 2), 9.0))
        assert original.max() == 1


@pytest.mark.parametrize("scheduler_class", [RespacedDDPMScheduler, RespacedDDIMScheduler])
def test_an_unknown_prediction_type_is_named(scheduler_class):
    with pytest.raises(ValueError, match=r"prediction_type must be one of \['epsilon', .*\], got 'noise'"):
        scheduler_class(10, prediction_type="noise")
    assert scheduler_class(10, prediction_type="v_prediction").prediction_type == "v_prediction"
