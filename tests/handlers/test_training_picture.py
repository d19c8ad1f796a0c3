from __future__ import annotations

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from PIL import Image

from monai_mamba_gen.handlers import TrainingPicture


class Drawing(TrainingPicture):
    marks = {"Synthetic": "half of it"}

    def draw(self, device):
        self.seen = (device.type, self.network.training)
        torch.rand(3)
        return np.full((4, 6), 7, np.uint8)


def test_draws_every_interval_and_at_the_end_without_disturbing(tmp_path):
    drawing = Drawing(torch.nn.Linear(1, 1).train(), 2, tmp_path)
    trainer = Engine(lambda engine, batch: None)
    drawing.attach(trainer)
    before = torch.get_rng_state()
    trainer.run([0], max_epochs=5)
    assert torch.equal(torch.get_rng_state(), before) and drawing.network.training
    assert drawing.seen == ("cpu", False)
    paths = sorted((tmp_path / "samples").iterdir())
    assert [path.name for path in paths] == ["epoch_0002.png", "epoch_0004.png", "epoch_0005.png"]
    picture = Image.open(paths[0])
    assert picture.text == {"Synthetic": "half of it"} and picture.size == (6, 4) and np.asarray(picture).max() == 7


def test_only_the_first_process_draws(tmp_path, monkeypatch):
    monkeypatch.setattr("monai_mamba_gen.handlers.training_picture.is_main_process", lambda: False)
    trainer = Engine(lambda engine, batch: None)
    Drawing(torch.nn.Linear(1, 1), 1, tmp_path).attach(trainer)
    trainer.run([0])
    assert not list(tmp_path.iterdir())


def test_interval():
    with pytest.raises(ValueError, match="interval must be at least 1, got 0"):
        Drawing(torch.nn.Linear(1, 1), 0, "x")
