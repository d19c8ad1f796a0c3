from __future__ import annotations

import warnings

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler

from monai_mamba_gen.handlers import EMA


def test_follows_the_formula():
    network = torch.nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(0.0)
    ema = EMA(network, decay=0.75, warmup=False)
    trainer = Engine(lambda engine, batch: network.weight.data.fill_(1.0))
    ema.attach(trainer)
    trainer.run([0] * 3)
    assert float(ema.ema_model.weight.detach()) == pytest.approx(1 - 0.75**3)
    assert not ema.ema_model.training and not ema.ema_model.weight.requires_grad


def test_warm_up_goes_on_where_it_was():
    ema = EMA(torch.nn.Linear(1, 1), decay=0.999)
    assert [ema.decay_at(step) for step in (1, 8, 10**6)] == [2 / 11, 0.5, 0.999]


def test_buffers_are_copies():
    network = torch.nn.BatchNorm1d(2)
    ema = EMA(network, decay=0.9)
    trainer = Engine(lambda engine, batch: network(torch.randn(4, 2)))
    ema.attach(trainer)
    trainer.run([0, 1])
    for (name, average), buffer in zip(ema.ema_model.named_buffers(), network.buffers(), strict=True):
        assert torch.equal(average, buffer), name
        assert average.data_ptr() != buffer.data_ptr(), name


def test_weights_replaced_between_runs_start_the_average_anew():
    network = torch.nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(0.0)
    ema = EMA(network, decay=0.9)

    @torch.no_grad()
    def step(engine, batch):
        network.weight.add_(1.0)

    def average():
        return float(ema.ema_model.weight.detach())

    trainer = Engine(step)
    ema.attach(trainer)
    network.load_state_dict({"weight": torch.full((1, 1), 5.0)})  # before the first run
    trainer.run([0] * 4, max_epochs=1)
    once = average()
    assert 7 < once < 9
    trainer.run([0] * 4, max_epochs=2)  # nothing replaced: goes on
    assert trainer.state.iteration == 8 and 9 < average() < 13
    network.load_state_dict({"weight": torch.full((1, 1), 105.0)})
    starts = []
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda engine: starts.append(average()))
    trainer.run([0] * 4, max_epochs=3)
    assert starts == [105.0] and average() == pytest.approx(100 + once), "the warm-up starts again too"


def test_a_resumed_average_is_kept():
    network = torch.nn.Linear(1, 1, bias=False)
    ema = EMA(network, decay=0.9)
    ema.ema_model.weight.data.fill_(7.0)
    trainer = Engine(lambda engine, batch: engine.terminate())
    trainer.load_state_dict({"iteration": 4, "max_epochs": 3, "epoch_length": 4})
    ema.attach(trainer)
    averages = []
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda engine: averages.append(float(ema.ema_model.weight)))
    trainer.run([0] * 4, max_epochs=3)
    assert averages == [7.0]


def test_ignites_own_handler_still_needs_this_one():
    """When this fails, ignite's EMAHandler has changed: see whether it can be used as it is."""
    network = torch.nn.BatchNorm1d(2)
    ema = EMAHandler(network, momentum=0.5, handle_buffers="update")
    trainer = Engine(lambda engine, batch: network(torch.randn(4, 2)))
    ema.attach(trainer, "ema_momentum")
    trainer.run([0])
    assert ema.ema_model.num_batches_tracked.data_ptr() == network.num_batches_tracked.data_ptr()

    momenta = []
    for start in (0, 2):  # uninterrupted first, then a run resumed after two iterations
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ema = EMAHandler(torch.nn.Linear(1, 1), momentum=0.1, momentum_warmup=0.9, warmup_iters=4)
            trainer = Engine(lambda engine, batch: None)
            ema.attach(trainer, "ema_momentum")
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: momenta.append(e.state.ema_momentum))
        trainer.load_state_dict({"iteration": start, "max_epochs": 2, "epoch_length": 2})
        trainer.run([0, 1])
    assert momenta[2:4] != momenta[4:6]


def test_arguments():
    for wrong in (0.0, 1.0):
        with pytest.raises(ValueError, match="decay"):
            EMA(torch.nn.Linear(1, 1), decay=wrong)
