from __future__ import annotations

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from PIL import Image

from monai_mamba_gen.handlers import SampleGridHandler


def run_grid(folder, epochs=3, interval=2, **kwargs):
    calls = []

    def sampler(inputs, network, seeds):
        calls.append((tuple(inputs.shape), network.training, torch.is_grad_enabled()))
        torch.rand(3)
        return torch.stack([torch.full((1, 4, 4), seed / 2 - 1.0) for seed in seeds])

    network = torch.nn.Conv2d(1, 1, 1).train()
    grid = SampleGridHandler(sampler, network, (1, 4, 4), [0, 4], interval, folder, **kwargs)
    trainer = Engine(lambda engine, batch: None)
    grid.attach(trainer)
    before = torch.get_rng_state()
    trainer.run([0], max_epochs=epochs)
    assert torch.equal(torch.get_rng_state(), before)  # the sampler's draws do not reach the training
    return network, calls


def test_writes_a_picture_every_interval_and_at_the_end(tmp_path):
    network, calls = run_grid(tmp_path)
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["epoch_0002.png", "epoch_0003.png"]
    picture = np.asarray(Image.open(tmp_path / "samples" / "epoch_0002.png"))
    assert picture[0, 0] == 0 and picture[0, -1] == 255
    assert calls == [((2, 1, 4, 4), False, False)] * 2
    assert network.training


def test_tensorboard(tmp_path):
    run_grid(tmp_path, epochs=1, log_dir=tmp_path / "log")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "log"))
    events.Reload()
    assert events.Tags()["images"] == ["samples"]


@pytest.mark.parametrize("wrong", [{"shape": (4, 4)}, {"seeds": []}, {"interval": 0}])
def test_arguments(wrong):
    arguments = {"shape": (1, 4, 4), "seeds": [0], "interval": 1, "output_dir": "x", **wrong}
    with pytest.raises(ValueError, match="must be"):
        SampleGridHandler(lambda: None, torch.nn.Linear(1, 1), **arguments)
