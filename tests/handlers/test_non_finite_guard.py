from __future__ import annotations

import pytest
import torch
from ignite.engine import Events
from monai.data import MetaTensor
from monai.engines import IterationEvents

from monai_mamba_gen.handlers import describe_batch, first_non_finite
from monai_mamba_gen.utils import DataError


def saved_files(training):
    return {path.name: path.read_bytes() for path in training.folder.iterdir() if path.suffix == ".pt"}


def test_nan_in_the_data_names_step_and_file(make_training):
    training = make_training(dataset=make_training.dataset(broken=5))
    with pytest.raises(DataError, match=r"step \d, epoch 1: .*image holds NaN.*: slice_5.nii.gz \(index 5\)$"):
        training.trainer.run()
    assert training.trainer.state.iteration <= 4
    assert all(bool(torch.isfinite(value).all()) for value in training.network.parameters())
    assert saved_files(training) == {}


def test_nan_in_the_loss_stops_before_the_weights_change(make_training):
    calls = []

    def loss(prediction, target):
        calls.append(len(calls) + 1)
        return ((prediction - target) ** 2).mean() * (float("nan") if calls[-1] == 6 else 1.0)

    training = make_training(loss=loss)
    before = {}
    keep = lambda: before.update({k: v.clone() for k, v in training.network.named_parameters()})  # noqa: E731
    training.trainer.add_event_handler(Events.ITERATION_STARTED, keep)
    with pytest.raises(DataError, match=r"step 6, epoch 2: the loss is nan.*slice_\d.nii.gz, slice_\d.nii.gz"):
        training.trainer.run()
    assert all(torch.equal(value, before[key]) for key, value in training.network.named_parameters())
    assert set(saved_files(training)) == {"checkpoint_epoch=1.pt", "model.pt"}


def test_nan_in_the_weights_is_found_within_one_step(make_training):
    training = make_training()

    @training.trainer.on(Events.ITERATION_COMPLETED(once=6))
    def spoil():
        training.files = saved_files(training)
        with torch.no_grad():
            training.network.first.weight[0, 0, 0, 0] = float("nan")

    with pytest.raises(DataError, match=r"step 7, epoch 2: .*weights are already not finite \(first.weight\).*slice_"):
        training.trainer.run()
    assert saved_files(training) == training.files != {}


def test_weights_spoiled_at_the_end_of_an_epoch_are_not_saved(make_training):
    training = make_training()

    @training.trainer.on(Events.ITERATION_COMPLETED(once=8))
    def spoil():
        training.files = saved_files(training)
        training.ema.last.bias.data.fill_(float("inf"))

    with pytest.raises(DataError, match=r"epoch 2: ema is not saved, last.bias holds NaN or infinity"):
        training.trainer.run()
    assert saved_files(training) == training.files != {}


def test_infinite_gradient_stops_before_the_weights_change(make_training):
    training = make_training()

    def spoil(engine):
        if engine.state.iteration == 3:
            training.network.first.weight.grad.fill_(float("inf"))

    training.trainer._event_handlers[IterationEvents.BACKWARD_COMPLETED].insert(0, (spoil, (training.trainer,), {}))
    with pytest.raises(DataError, match=r"step 3, epoch 1: the gradient norm is \w+ though the loss is finite"):
        training.trainer.run()
    assert first_non_finite(training.network) is None


def test_describe_batch():
    batch = {"image": MetaTensor(torch.zeros(2, 1, 2, 2), meta={"filename_or_obj": ["a.nii", "b.nii"]})}
    assert describe_batch(batch) == "a.nii, b.nii"
    assert describe_batch({**batch, "index": torch.tensor([4, 7])}, rows=[1]) == "b.nii (index 7)"
    assert describe_batch({"source": ["same.nii"] * 3}) == "same.nii"
    assert describe_batch({"source": [f"{i}.nii" for i in range(9)]}).endswith("7.nii, ...")
    assert describe_batch({"image": torch.zeros(1)}) == describe_batch(torch.zeros(1)) == "a batch without file names"
