from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from ignite.engine import State

from monai_mamba_gen.handlers import GradientClipHandler


def engine_with(gradient, scaler=None, iteration=1, accumulation_steps=1, epoch_length=5):
    parameter = torch.nn.Parameter(torch.zeros(len(gradient)))
    parameter.grad = torch.tensor(gradient)
    state = State(iteration=iteration, epoch=1, epoch_length=epoch_length, metrics={}, batch={})
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    return parameter, SimpleNamespace(
        optimizer=optimizer, scaler=scaler, state=state, accumulation_steps=accumulation_steps
    )


def test_scales_to_the_largest_norm_and_records_the_one_before():
    handler = GradientClipHandler(1.0)
    parameter, engine = engine_with([3.0, 4.0])
    handler(engine)
    torch.testing.assert_close(parameter.grad, torch.tensor([0.6, 0.8]), atol=1e-5, rtol=0)
    small, _ = engine_with([0.3, 0.4])
    engine.optimizer = torch.optim.SGD([small], lr=1.0)
    handler(engine)
    assert small.grad.tolist() == pytest.approx([0.3, 0.4])
    handler._record(engine)
    assert engine.state.metrics["gradient_norm"] == pytest.approx((5.0 + 0.5) / 2)


@pytest.mark.parametrize(
    ("iteration", "clipped"), [(1, False), (2, True), (3, False), (4, True), (5, True), (6, False)]
)
def test_accumulation_clips_where_the_optimizer_steps(iteration, clipped):
    parameter, engine = engine_with([3.0, 4.0], iteration=iteration, accumulation_steps=2)
    GradientClipHandler(1.0)(engine)
    assert (float(parameter.grad.norm()) < 1.01) is clipped


def test_gradients_are_unscaled_first_and_overflow_is_left_to_the_scaler():
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(torch.zeros(1))
    parameter, engine = engine_with([3.0 * 8, 4.0 * 8], scaler)
    handler = GradientClipHandler(10.0)
    handler(engine)
    torch.testing.assert_close(parameter.grad, torch.tensor([3.0, 4.0]))
    assert handler._norms == [5.0]
    scaler.step(engine.optimizer)
    scaler.update()
    weights = parameter.detach().clone()
    parameter.grad = torch.tensor([float("inf"), 1.0])
    handler(engine)
    scaler.step(engine.optimizer)
    scaler.update()
    assert torch.equal(parameter, weights) and scaler.get_scale() == 4.0 and handler._norms == [5.0]


def test_arguments():
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="max_norm"):
            GradientClipHandler(wrong)
