from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import DataLoader, Dataset
from monai.data.utils import set_rnd
from monai.transforms import RandGaussianNoise

from monai_mamba_gen.handlers import ReproducibilityHandler
from monai_mamba_gen.networks.blocks import SS2D


def run(data, epochs, start=0, epoch_length=None, **kwargs):
    """Return what the epochs after ``start`` drew and saw."""
    seen = []

    def step(engine, batch):
        seen.append((batch, torch.rand(1).item(), np.random.rand(), random.random()))

    trainer, length = Engine(step), epoch_length or len(data)
    ReproducibilityHandler(seed=7, **kwargs).attach(trainer)
    trainer.load_state_dict({"epoch": start, "max_epochs": epochs, "epoch_length": length})
    trainer.run(data)
    return seen


def test_epochs_repeat_after_a_resume_and_differ_among_each_other():
    whole = run([0, 1], 3)
    assert run([0, 1], 3, start=1) == whole[2:]
    assert len({draws[1:] for draws in whole}) == 6


@pytest.mark.parametrize("workers", [0, 2])
def test_shuffling_and_random_transforms_follow_the_epoch(workers):
    def loader():
        dataset = Dataset([np.full((1, 2), index, dtype=np.float32) for index in range(4)], RandGaussianNoise(prob=1.0))
        set_rnd(dataset, 1)
        return DataLoader(dataset, batch_size=2, shuffle=True, num_workers=workers)

    def images(data, **kwargs):
        return torch.stack([torch.as_tensor(batch) for batch, *_ in run(data, 3, datasets=data.dataset, **kwargs)])

    whole, resumed = images(loader()), images(loader(), start=2)
    assert torch.equal(whole[4:], resumed)
    assert not torch.equal(whole[2:4], whole[4:])


def test_short_epochs_start_a_new_pass():
    data = DataLoader(list(range(6)), batch_size=1, shuffle=True)
    whole = [int(batch) for batch, *_ in run(data, 3, epoch_length=4)]
    resumed = [int(batch) for batch, *_ in run(data, 3, start=2, epoch_length=4)]
    assert resumed == whole[8:]


def test_set_epoch_and_set_step_are_called():
    calls = []

    class Recorder:
        def set_epoch(self, epoch):
            calls.append(("epoch", epoch))

        def set_step(self, step):
            calls.append(("step", step))

    run([0, 1], 2, start=1, datasets=[Recorder()], samplers=Recorder(), prepare_batch=Recorder())
    assert calls == [("epoch", 2), ("epoch", 2), ("step", 3), ("step", 4)]


def test_scan_orders_depend_on_the_step_alone():
    torch.manual_seed(0)
    block = SS2D(d_model=4, d_state=2, sequence_regeneration="always")
    images = torch.randn(1, 4, 6, 6)

    def outputs(start):
        got = []
        trainer = Engine(lambda engine, batch: got.append(block(images).detach()))
        ReproducibilityHandler(seed=7, network=block).attach(trainer)
        trainer.load_state_dict({"epoch": start, "max_epochs": 3, "epoch_length": 1})
        trainer.run([0])
        return got

    whole, resumed = outputs(0), outputs(2)
    assert torch.equal(whole[2], resumed[0])
    assert not torch.equal(whole[1], whole[2])


def test_workers_that_live_on_are_refused():
    data = DataLoader(list(range(2)), num_workers=1, persistent_workers=True)
    with pytest.raises(ValueError, match="persistent_workers must be False"):
        run(data, 1)
