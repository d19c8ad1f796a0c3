from __future__ import annotations

import os
import pickle

import pytest
import torch
from ignite.engine import Engine

from monai_mamba_gen.handlers import AtomicCheckpointSaver, ResumeHandler
from monai_mamba_gen.utils import DataError


def saved(folder, epochs=2, network=None):
    trainer = Engine(lambda engine, batch: None)
    AtomicCheckpointSaver(folder, {"network": network or torch.nn.Linear(2, 3)}).attach(trainer)
    trainer.run([0, 1], max_epochs=epochs)
    return folder / f"checkpoint_epoch={epochs}.pt"


def resume(path, network=None, epochs=5, data=(0, 1), **load_dict):
    trainer = Engine(lambda engine, batch: None)
    trainer.state.epoch_length, trainer.state.max_epochs = len(data), epochs
    trainer.state.epoch = trainer.state.iteration = 0
    ResumeHandler(path, {"network": network or torch.nn.Linear(2, 3), **load_dict}).attach(trainer)
    trainer.ran = []
    trainer._process_function = lambda engine, batch: trainer.ran.append(engine.state.epoch)
    trainer.run(data, max_epochs=epochs)
    return trainer


def test_goes_on_after_the_saved_epoch_until_the_newly_asked_one(tmp_path):
    first, second = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    saved(tmp_path, network=first)
    assert resume(tmp_path, second, epochs=4).ran == [3, 3, 4, 4]
    assert torch.equal(first.weight, second.weight)
    assert resume(tmp_path / "checkpoint_epoch=1.pt", second, epochs=2).ran == [2, 2]
    assert resume(tmp_path, epochs=2).ran == []
    assert resume(tmp_path, epochs=1).ran == []


def test_only_the_first_run_loads(tmp_path):
    """Weights that a server puts into the network between two runs stay."""
    network = torch.nn.Linear(2, 3)
    saved(tmp_path)
    trainer = resume(tmp_path, network, epochs=3)
    torch.nn.init.constant_(network.weight, 7.0)
    trainer.run([0, 1], max_epochs=4)
    assert trainer.ran == [3, 3, 4, 4] and bool((network.weight == 7.0).all())


def test_loads_into_a_wrapped_network(tmp_path):
    network, wrapped = torch.nn.Linear(2, 3), torch.nn.DataParallel(torch.nn.Linear(2, 3))
    saved(tmp_path, network=network)
    resume(tmp_path, wrapped)
    assert torch.equal(network.weight, wrapped.module.weight)


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", "half"])
def test_a_damaged_file_is_passed_over(tmp_path, caplog, damage):
    newest = saved(tmp_path)
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2] if damage == "half" else damage)
    assert resume(tmp_path, epochs=2).ran == [2, 2]
    assert "checkpoint_epoch=2.pt is damaged" in caplog.text
    (tmp_path / "checkpoint_epoch=1.pt").unlink()
    with pytest.raises(DataError, match="only damaged checkpoints to resume from"):
        resume(tmp_path)


def test_no_checkpoint(tmp_path):
    (tmp_path / ".checkpoint_epoch=3.pt.7.tmp").write_bytes(b"")
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match=f"{path}: no checkpoint to resume from"):
            resume(path)


def test_another_network(tmp_path):
    saved(tmp_path)
    before = (other := torch.nn.Linear(2, 4)).weight.clone()
    with pytest.raises(
        DataError, match=r"epoch=2.pt is of another network: network.weight is \(3, 2\) in the file and \(4, 2\) in"
    ):
        resume(tmp_path, other)
    assert torch.equal(other.weight, before)
    with pytest.raises(DataError, match=r"network.bias is \(3,\) in the file and absent in this network"):
        resume(tmp_path, torch.nn.Linear(2, 3, bias=False))
    with pytest.raises(DataError, match=r"network.0.weight is absent in the file and \(3, 2\) in this network"):
        resume(tmp_path, torch.nn.Sequential(torch.nn.Linear(2, 3)))


def test_entries_that_do_not_fit(tmp_path):
    path = saved(tmp_path)
    optimizer = torch.optim.Adam(torch.nn.Linear(2, 3).parameters())
    with pytest.raises(DataError, match="has no optimizer; it has network, trainer, metadata"):
        resume(tmp_path, optimizer=optimizer)
    content = torch.load(path, weights_only=True)
    another = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    torch.save({**content, "optimizer": another.state_dict()}, path)
    with pytest.raises(DataError, match="optimizer does not fit this training"):
        resume(tmp_path, optimizer=optimizer)
    with pytest.raises(DataError, match="counts 2 steps an epoch, this training 3: data, batch size"):
        resume(tmp_path, data=(0, 1, 2))


class Payload:
    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("writer", ["torch", "legacy", "pickle"])
def test_pickled_code_is_refused_and_not_run(tmp_path, writer):
    target, path = tmp_path / "made by the payload", saved(tmp_path)
    content = {"network": {}, "payload": Payload(target)}
    if writer == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=writer == "torch")
    with pytest.raises(DataError, match="is refused: it holds other things than weights"):
        resume(tmp_path)
    assert not target.exists()
