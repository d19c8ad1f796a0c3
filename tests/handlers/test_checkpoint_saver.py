from __future__ import annotations

import json
import os
import random
import signal
import stat
import sys
import time

import pytest
import torch
from ignite.engine import Engine

from monai_mamba_gen.handlers import AtomicCheckpointSaver, list_checkpoints


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix in (".pt", ".old", ".tmp"))


def run_saver(folder, network, epochs, start=0, **kwargs):
    trainer = Engine(lambda engine, batch: None)
    trainer.state.epoch_length, trainer.state.max_epochs = 1, epochs
    trainer.state.epoch = trainer.state.iteration = start
    AtomicCheckpointSaver(folder, {"network": network}, model=network, **kwargs).attach(trainer)
    trainer.run([0], max_epochs=epochs)
    return trainer


def test_keeps_the_newest_and_writes_the_bare_model(tmp_path):
    network = torch.nn.Linear(2, 3)
    run_saver(tmp_path, network, 5, interval=2, n_saved=2, metadata={"width": 3})
    assert names(tmp_path) == ["checkpoint_epoch=4.pt", "checkpoint_epoch=5.pt", "model.pt"]
    model = torch.load(tmp_path / "model.pt", weights_only=True)
    assert torch.equal(model["weight"], network.weight)
    content = torch.load(tmp_path / "checkpoint_epoch=5.pt", weights_only=True)
    assert content["trainer"]["iteration"] == 5
    assert content["metadata"] == {**content["metadata"], "width": 3, "epoch": 5, "world_size": 1}
    assert "monai_mamba_gen" in content["metadata"]


def test_files_are_readable_by_others_as_the_umask_says(tmp_path):
    previous = os.umask(0o022)
    try:
        run_saver(tmp_path, torch.nn.Linear(2, 2), 1)
    finally:
        os.umask(previous)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o644}


def test_stale_temporary_files_are_cleaned_and_other_files_are_not(tmp_path):
    (tmp_path / ".checkpoint_epoch=3.pt.99.tmp").write_bytes(b"half")
    (tmp_path / ".model.pt.99.tmp").write_bytes(b"half")
    (tmp_path / "mine.tmp").write_bytes(b"mine")
    run_saver(tmp_path, torch.nn.Linear(2, 2), 1)
    assert names(tmp_path) == ["checkpoint_epoch=1.pt", "mine.tmp", "model.pt"]
    assert not list(tmp_path.glob(".*"))


def test_a_new_run_keeps_the_checkpoints_it_replaces_and_a_resumed_one_goes_on(tmp_path):
    run_saver(tmp_path, torch.nn.Linear(2, 2), 4)
    run_saver(tmp_path, torch.nn.Linear(2, 2), 6, start=4)
    assert names(tmp_path) == ["checkpoint_epoch=5.pt", "checkpoint_epoch=6.pt", "model.pt"]
    run_saver(tmp_path, torch.nn.Linear(2, 2), 1)
    assert names(tmp_path) == [
        "checkpoint_epoch=1.pt",
        "checkpoint_epoch=5.pt.old",
        "checkpoint_epoch=6.pt.old",
        "model.pt",
    ]


def test_wrapped_networks_are_saved_without_prefix(tmp_path):
    run_saver(tmp_path, torch.nn.DataParallel(torch.nn.Linear(2, 2)), 1)
    content = torch.load(tmp_path / "checkpoint_epoch=1.pt", weights_only=True)
    assert set(content["network"]) == {"weight", "bias"}


@pytest.mark.parametrize("argument", [{"interval": 0}, {"n_saved": 0}, {"metadata": {"device": torch.device("cpu")}}])
def test_arguments(argument):
    with pytest.raises(ValueError, match=next(iter(argument))):
        AtomicCheckpointSaver("x", {}, **argument)


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_twenty_kills_while_saving_leave_a_good_checkpoint(tmp_path):
    """The child saves without pause; whatever the moment of the kill, the newest listed file loads."""
    generator = random.Random(0)
    network, tried = torch.nn.Linear(700, 700), []
    for attempt in range(20):
        folder = tmp_path / str(attempt)
        run_saver(folder, network, 1)
        child = os.fork()
        if child == 0:
            try:
                torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
                run_saver(folder, network, 10**6, start=1)
            finally:
                os._exit(0)
        deadline = time.monotonic() + 20
        while list_checkpoints(folder)[0][0] < 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(generator.random() * 0.02)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        epoch, path = list_checkpoints(folder)[0]
        content = torch.load(path, weights_only=True)
        assert content["metadata"]["epoch"] == content["trainer"]["iteration"] == epoch
        assert torch.equal(torch.load(folder / "model.pt", weights_only=True)["weight"], network.weight)
        tried.append((epoch, len(list(folder.glob(".*.tmp")))))
    assert min(epoch for epoch, _ in tried) > 1  # the children did save
    assert any(unfinished for _, unfinished in tried)  # and some were killed in the middle of it


def test_weights_of_a_stage_go_where_they_are_named(tmp_path):
    network = torch.nn.Linear(2, 2)
    path = tmp_path / "models" / "autoencoder.pt"
    saver = AtomicCheckpointSaver(tmp_path / "stage", {"network": network}, network, metadata={"a": 1}, model_path=path)
    trainer = Engine(lambda engine, batch: None)
    saver.attach(trainer)
    trainer.run([0], max_epochs=1)
    assert torch.equal(torch.load(path, weights_only=True)["weight"], network.weight)
    assert json.loads(path.with_suffix(".json").read_text())["a"] == 1
    assert [file.name for file in (tmp_path / "stage").iterdir()] == ["checkpoint_epoch=1.pt"]
