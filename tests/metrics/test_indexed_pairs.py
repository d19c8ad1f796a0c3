"""A contrastive loss that does not depend on how the samples were dealt."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from ignite.engine import Engine
from ignite.exceptions import NotComputableError

from monai_mamba_gen.losses import InfoNCELoss
from monai_mamba_gen.metrics import IndexedPairLoss

PAIRS = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
TRUTH = float(InfoNCELoss()((PAIRS[0], PAIRS[1])))


def run(batches):
    engine = Engine(lambda engine, batch: {"pred": tuple(PAIRS[:, batch["index"]])})
    IndexedPairLoss(InfoNCELoss()).attach(engine, "val_loss")
    return engine.run([{"index": torch.tensor(batch)} for batch in batches], max_epochs=2).metrics["val_loss"]


@pytest.mark.parametrize("batches", [[[0, 1, 2, 3, 4]], [[0], [1], [2], [3], [4]], [[3, 1], [0, 4], [2, 0]]])
def test_loss_of_the_whole_at_any_batch_size_and_with_padding(batches):
    assert run(batches) == pytest.approx(TRUTH, rel=1e-6)


def test_processes_are_gathered(monkeypatch):
    def gather(parts, own):
        parts[:] = [own, {4: PAIRS[:, 4], 0: own[0]}]

    monkeypatch.setattr("monai_mamba_gen.metrics.indexed_pairs.get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_gather_object", gather)
    assert run([[0, 2], [1, 3]]) == pytest.approx(TRUTH, rel=1e-6)


def test_errors():
    with pytest.raises(NotComputableError, match="no sample"):
        IndexedPairLoss(InfoNCELoss()).compute()
    engine = Engine(lambda engine, batch: {"pred": (batch["image"], batch["image"])})
    IndexedPairLoss(InfoNCELoss()).attach(engine, "loss")
    with pytest.raises(ValueError, match="needs an 'index' in the batch"):
        engine.run([{"image": torch.zeros(1)}])
