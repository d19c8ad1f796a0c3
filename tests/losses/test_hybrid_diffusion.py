"""The bound against divergences and densities in closed form, and what it may and may not train."""

from __future__ import annotations

import math

import pytest
import torch
from monai.networks.schedulers import DDPMScheduler
from torch.distributions import Normal, kl_divergence

from monai_mamba_gen.losses import HybridDiffusionLoss
from monai_mamba_gen.networks.schedulers import RespacedDDPMScheduler

SHAPE = (4, 2, 5, 3)
TYPES = ["epsilon", "sample", "v_prediction"]


def example(
    prediction_type="epsilon", steps=100, timesteps=(1, 20, 57, 99), dtype=torch.float32, schedule="linear_beta"
):
    scheduler = RespacedDDPMScheduler(
        steps, schedule, prediction_type=prediction_type, variance_type="learned_range", clip_sample=False
    )
    generator = torch.Generator().manual_seed(0)
    clean, noise, error, v = torch.randn(4, *SHAPE, generator=generator).to(dtype)
    timesteps = torch.tensor(timesteps)
    noisy = scheduler.add_noise(clean, noise, timesteps)
    truth = {"epsilon": noise, "sample": clean, "v_prediction": scheduler.get_velocity(clean, noise, timesteps)}
    truth = truth[prediction_type]
    target = {"prediction": truth, "clean": clean, "noisy": noisy, "timesteps": timesteps}
    return scheduler, torch.cat([truth + 0.1 * error, v], dim=1), target


def gaussians(scheduler, output, target, row):
    """The posterior and the network's step of one sample, both from the scheduler, in float64."""
    timestep = int(target["timesteps"][row])
    prediction, v = output[row].double().chunk(2)
    clean, noisy = target["clean"][row].double(), target["noisy"][row].double()
    original = scheduler.predict_original(prediction, timestep, noisy)
    model = scheduler._get_mean(timestep, original, noisy), scheduler._get_variance(timestep, v)
    truth = scheduler._get_mean(timestep, clean, noisy), scheduler._get_variance(timestep, None)
    return [Normal(mean, variance**0.5) for mean, variance in (truth, model)]


@pytest.mark.parametrize("prediction_type", TYPES)
def test_bound_is_the_divergence_of_the_schedulers_own_gaussians(prediction_type):
    scheduler, output, target = example(prediction_type)
    loss = HybridDiffusionLoss(scheduler)
    loss(output, target)
    terms = [kl_divergence(*gaussians(scheduler, output, target, row)).mean() for row in range(4)]
    assert loss.parts["vlb"] == pytest.approx(float(sum(terms)) / 4 / math.log(2), rel=2e-3)


def test_divergence_by_hand():
    """beta = (0.1, 0.2): abar = (0.9, 0.72), beta~ at t = 1 is 0.1 / 0.28 * 0.2."""
    scheduler = DDPMScheduler(2, beta_start=0.1, beta_end=0.2)
    target = {"prediction": torch.zeros(1, 1, 1), "clean": torch.full((1, 1, 1), 0.4), "timesteps": torch.tensor([1])}
    noisy = 0.72**0.5 * 0.4 + 0.28**0.5 * 0.5
    target["noisy"] = torch.full((1, 1, 1), noisy)
    loss = HybridDiffusionLoss(scheduler)
    loss(torch.tensor([[[0.2], [0.6]]]), target)  # predicts the noise 0.2 and v = 0.6
    small, original = 0.1 / 0.28 * 0.2, (noisy - 0.28**0.5 * 0.2) / 0.72**0.5
    variance = math.exp(0.8 * math.log(0.2) + 0.2 * math.log(small))
    distance = 0.9**0.5 * 0.2 / 0.28 * (0.4 - original)
    divergence = 0.5 * (math.log(variance / small) + (small + distance**2) / variance - 1)
    assert loss.parts["vlb"] == pytest.approx(divergence / math.log(2), rel=1e-5)
    assert loss.parts["simple"] == pytest.approx(0.04, rel=1e-5)
    assert loss.parts["loss"] == pytest.approx(0.04 + 0.001 * 2 * loss.parts["vlb"], rel=1e-5)


@pytest.mark.parametrize("prediction_type", TYPES)
def test_last_step_is_a_density(prediction_type):
    scheduler, output, target = example(prediction_type, timesteps=(0, 0, 0, 0))
    loss = HybridDiffusionLoss(scheduler)
    loss(output, target)
    betas = scheduler.betas.double()
    small = betas[1] * betas[0] / (1 - (1 - betas[0]) * (1 - betas[1]))
    fraction = (output[:, 2:].double() + 1) / 2
    variance = torch.exp(fraction * betas[0].log() + (1 - fraction) * small.log())
    original = scheduler.predict_original(output[:, :2].double(), 0, target["noisy"].double())
    nats = -Normal(original, variance**0.5).log_prob(target["clean"].double()).mean()
    assert loss.parts["vlb"] == pytest.approx(float(nats) / math.log(2), rel=2e-3)


@pytest.mark.parametrize("schedule", ["linear_beta", "scaled_linear_beta", "cosine"])
@pytest.mark.parametrize("prediction_type", TYPES)
def test_perfect_prediction_with_the_posteriors_variance_costs_nothing(prediction_type, schedule):
    scheduler, _, target = example(prediction_type, schedule=schedule)
    output = torch.cat([target["prediction"], torch.full(SHAPE, -1.0)], dim=1)
    loss = HybridDiffusionLoss(scheduler)
    assert loss(output, target).item() == pytest.approx(0, abs=1e-6)
    assert loss.parts["vlb"] == pytest.approx(0, abs=1e-6)


def test_bound_trains_the_variance_alone():
    scheduler, output, target = example()
    gradients = []
    for weight in (0.0, 0.001, 10.0):
        variable = output.clone().requires_grad_()
        HybridDiffusionLoss(scheduler, weight)(variable, target).backward()
        gradients.append(variable.grad)
    simple = output[:, :2].clone().requires_grad_()
    HybridDiffusionLoss(scheduler)(simple, target["prediction"]).backward()
    for gradient in gradients:
        assert torch.equal(gradient[:, :2], simple.grad)
    assert not gradients[0][:, 2:].any() and bool((gradients[1][:, 2:] != 0).all())
    torch.testing.assert_close(gradients[2][:, 2:], gradients[1][:, 2:] * 1e4, rtol=1e-4, atol=0)


def test_best_variance_is_that_of_the_posterior_plus_the_squared_error_of_the_mean():
    scheduler, output, target = example(timesteps=(3, 8, 20, 40), dtype=torch.float64)
    spread = [gaussians(scheduler, output, target, row) for row in range(4)]
    best = torch.stack([truth.variance + (truth.mean - model.mean) ** 2 for truth, model in spread]).log()
    table = HybridDiffusionLoss(scheduler)
    small, large = (
        getattr(table, name)[target["timesteps"]].reshape(-1, 1, 1, 1) for name in ("log_small", "log_large")
    )
    variable = torch.cat([output[:, :2], 2 * (best - small) / (large - small) - 1], dim=1).requires_grad_()
    HybridDiffusionLoss(scheduler, 1.0)(variable, target).backward()
    away = (variable.detach() + torch.tensor([0.0, 0, 0.5, 0.5]).reshape(1, 4, 1, 1)).requires_grad_()
    HybridDiffusionLoss(scheduler, 1.0)(away, target).backward()
    assert variable.grad[:, 2:].abs().max() < 1e-3 * away.grad[:, 2:].abs().max()


def test_plain_error_without_variance():
    scheduler, output, target = example()
    loss = HybridDiffusionLoss(scheduler)
    expected = float(((output[:, :2] - target["prediction"]) ** 2).mean())
    assert loss(output[:, :2], target).item() == pytest.approx(expected, rel=1e-6)
    assert sorted(loss.parts) == ["loss"]
    assert loss(output[:, :2], target["prediction"]).item() == pytest.approx(expected, rel=1e-6)


def test_mean_over_samples():
    """The loss of a batch is the mean of its samples' losses, as `IndexedMeanLoss` takes it."""
    scheduler, output, target = example(timesteps=(0, 20, 57, 99))
    loss = HybridDiffusionLoss(scheduler)
    single = [loss(output[n : n + 1], {key: value[n : n + 1] for key, value in target.items()}) for n in range(4)]
    assert loss(output, target).item() == pytest.approx(float(sum(single)) / 4, rel=1e-5)


def test_half_precision_is_computed_in_float32():
    scheduler, output, target = example()
    loss = HybridDiffusionLoss(scheduler)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(output.bfloat16(), target)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(output.bfloat16().float(), target).item(), rel=1e-6)
    assert not loss.state_dict()


def test_errors():
    scheduler, output, target = example()
    loss = HybridDiffusionLoss(scheduler)
    with pytest.raises(ValueError, match="vlb_weight must be at least 0, got -1"):
        HybridDiffusionLoss(scheduler, vlb_weight=-1)
    with pytest.raises(ValueError, match=r"output must be \(4, 2, 5, 3\) or \(4, 4, 5, 3\), got \(4, 3, 5, 3\)"):
        loss(output[:, :3], target)
    with pytest.raises(ValueError, match="target must have 'clean'"):
        loss(output, {key: value for key, value in target.items() if key != "clean"})
    with pytest.raises(ValueError, match="target must be a dictionary"):
        loss(output, target["prediction"])
    with pytest.raises(ValueError, match=r"target 'noisy' must be \(4, 2, 5, 3\)"):
        loss(output, target | {"noisy": target["noisy"][:, :1]})
    with pytest.raises(ValueError, match=r"'timesteps' must be \(4,\)"):
        loss(output, target | {"timesteps": torch.tensor([1])})
