"""A mean loss that does not depend on how the samples were dealt."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from torch import nn

from monai_mamba_gen.metrics import IndexedMeanLoss

VALUES = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])


def loss(pred, label):
    assert pred["a"].shape == (1, 2) and label["b"].shape == (1, 2), "one sample, its batch axis kept"
    return nn.functional.mse_loss(pred["a"], label["b"])


def run(batches, loss_function=loss):
    def step(engine, batch):
        rows = VALUES[batch["index"]][:, None].sqrt().expand(-1, 2)
        return {"pred": {"a": rows, "name": "x"}, "label": {"b": torch.zeros_like(rows)}}

    engine = Engine(step)
    IndexedMeanLoss(loss_function).attach(engine, "val_loss")
    return engine.run([{"index": torch.tensor(batch)} for batch in batches], max_epochs=2).metrics["val_loss"]


@pytest.mark.parametrize("batches", [[[0], [1], [2], [3], [4]], [[3, 1], [0, 4], [2]], [[0, 1, 2], [3, 4, 0]]])
def test_mean_over_samples_at_any_batch_size_and_with_padding(batches):
    assert run(batches) == pytest.approx(float(VALUES.mean()), rel=1e-6)


@pytest.mark.parametrize("batches", [[[0, 1, 2, 3, 4]], [[3, 1], [0, 4], [2]]])
def test_stacked_kinds_of_a_sample_go_to_the_loss_together_also_in_tuples(batches):
    def step(engine, batch):
        rows = torch.cat([VALUES[batch["index"]], 3 * VALUES[batch["index"]]])[:, None]
        return {"pred": (rows, None), "label": torch.zeros_like(rows)}

    def two_rows(pred, label):
        assert pred[0].shape == label.shape == (2, 1) and pred[1] is None
        return nn.functional.l1_loss(pred[0], label)

    engine = Engine(step)
    IndexedMeanLoss(two_rows).attach(engine, "val_loss")
    metrics = engine.run([{"index": torch.tensor(batch)} for batch in batches]).metrics
    assert metrics["val_loss"] == pytest.approx(2 * float(VALUES.mean()), rel=1e-6)


def test_processes_are_gathered(monkeypatch):
    def gather(parts, own):
        parts[:] = [own, {4: 16.0, 0: own[0]}]

    monkeypatch.setattr("monai_mamba_gen.metrics.indexed_loss.get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_gather_object", gather)
    assert run([[0], [1], [2], [3]]) == pytest.approx(float(VALUES.mean()), rel=1e-6)


def test_errors():
    with pytest.raises(NotComputableError, match="no sample"):
        IndexedMeanLoss(loss).compute()
    engine = Engine(lambda engine, batch: {"pred": batch, "label": batch})
    IndexedMeanLoss(loss).attach(engine, "loss")
    with pytest.raises(ValueError, match="needs an 'index' in the batch"):
        engine.run([{"image": torch.zeros(1)}])
