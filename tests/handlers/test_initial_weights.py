from __future__ import annotations

import json

import pytest
import torch
from ignite.engine import Engine

from monai_mamba_gen.handlers import EMA, AtomicCheckpointSaver, InitialWeightsHandler, ResumeHandler
from monai_mamba_gen.utils import DataError


def weights_file(folder, **settings):
    network = torch.nn.Linear(2, 3)
    torch.save(network.state_dict(), folder / "model.pt")
    (folder / "model.json").write_text(json.dumps(settings))
    return folder / "model.pt", network


def train(*handlers, epochs=1):
    trainer = Engine(lambda engine, batch: None)
    for handler in handlers:
        handler.attach(trainer)
    trainer.run([0], max_epochs=epochs)
    return trainer


def test_the_training_starts_from_the_file(tmp_path):
    path, source = weights_file(tmp_path)
    network = torch.nn.Linear(2, 3)
    average = EMA(network, 0.9)
    train(InitialWeightsHandler(path, network), average)
    assert torch.equal(network.weight, source.weight)
    torch.testing.assert_close(average.ema_model.weight, source.weight)


def test_without_a_file_nothing_is_done():
    network = torch.nn.Linear(2, 3)
    before = network.weight.clone()
    train(InitialWeightsHandler(None, network))
    assert torch.equal(network.weight, before)


def test_a_second_run_keeps_what_it_was_given(tmp_path):
    path, source = weights_file(tmp_path)
    network = torch.nn.Linear(2, 3)
    trainer = train(InitialWeightsHandler(path, network))
    torch.nn.init.zeros_(network.weight)
    trainer.run([0], max_epochs=2)
    assert not network.weight.any() and source.weight.any()


def test_a_checkpoint_to_resume_from_replaces_the_weights(tmp_path):
    path, _ = weights_file(tmp_path)
    network = torch.nn.Linear(2, 3)
    train(AtomicCheckpointSaver(tmp_path / "run", {"network": network}))
    resumed = torch.nn.Linear(2, 3)
    train(InitialWeightsHandler(path, resumed), ResumeHandler(tmp_path / "run", {"network": resumed}), epochs=2)
    assert torch.equal(resumed.weight, network.weight)


@pytest.mark.parametrize(
    ("network", "settings", "message"),
    [
        (torch.nn.Linear(3, 3), {}, "is of another network: weight is"),
        (torch.nn.Linear(2, 3), {"prediction_type": "epsilon"}, "was trained with prediction_type='v_prediction'"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, network, settings, message):
    path, _ = weights_file(tmp_path, prediction_type="v_prediction")
    with pytest.raises(DataError, match=message):
        train(InitialWeightsHandler(path, network, settings))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere.pt: no such file"):
        train(InitialWeightsHandler(tmp_path / "nowhere.pt", torch.nn.Linear(2, 3)))
