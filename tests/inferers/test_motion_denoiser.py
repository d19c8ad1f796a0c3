"""The denoiser of a sampled motion: what it predicts is what the deformed volume would be the denoised one of."""

from __future__ import annotations

import pytest
import torch

from monai_mamba_gen.inferers.motion_denoiser import MotionDenoiser
from monai_mamba_gen.networks.schedulers import RespacedDDIMScheduler

SIZE = (1, 1, 4, 4, 3)


class Brighter:
    """Predicts noise x / 2 with the mean of x as code; the deformed volume is the source plus the code."""

    def __init__(self):
        self.asked = []

    def predict(self, x, timesteps, context):
        self.asked.append(int(timesteps[0]))
        return x / 2, x.mean() * torch.ones_like(x)

    def animate(self, source, target, code, phases):
        assert target is None and phases.tolist() == [1.0]
        return source + code, None


def denoiser(kind="epsilon", warp=12, code=6):
    return MotionDenoiser(Brighter(), RespacedDDIMScheduler(20, prediction_type=kind), warp, code)


def call(model, x, timestep):
    context = torch.cat([torch.zeros_like(x), -torch.ones_like(x)], dim=1)
    return model(x, torch.full((len(x),), timestep), context)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_below_the_warp_timestep_the_scheduler_lands_at_the_deformed_volume(kind):
    x = torch.randn(SIZE, generator=torch.Generator().manual_seed(0))
    model = denoiser(kind)
    prediction = call(model, x, 8)
    scheduler = model.scheduler
    scheduler.clip_sample = False
    scheduler.set_timesteps(20)
    _, clean = scheduler.step(prediction, 8, x)
    torch.testing.assert_close(clean, x.mean().expand(SIZE), atol=1e-5, rtol=1e-4)


def test_above_it_the_network_predicts():
    x = torch.randn(SIZE)
    model = denoiser()
    assert torch.equal(call(model, x, 12), x / 2) and torch.equal(model.code, x.mean().expand(SIZE))


def test_below_the_code_timestep_nothing_is_asked_any_more():
    model = denoiser()
    first = torch.randn(SIZE)
    for timestep in (19, 12, 6, 5, 0):
        call(model, first + timestep, timestep)
    assert model.network.asked == [19, 12, 6]
    torch.testing.assert_close(model.code, (first + 6).mean().expand(SIZE))


def test_one_step_below_the_code_timestep_still_asks():
    """However few steps there are, the network is asked once."""
    model = denoiser()
    call(model, torch.randn(SIZE), 3)
    assert model.network.asked == [3]


def test_deformation_never():
    x = torch.randn(SIZE)
    model = denoiser(warp=0, code=0)
    assert torch.equal(call(model, x, 0), x / 2)
