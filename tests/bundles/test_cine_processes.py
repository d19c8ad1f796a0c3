"""Two processes train, validate, score and generate what one does: torchrun with gloo, the configs unchanged."""

from __future__ import annotations

import json

import pytest
import torch

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m")


def lists(settings):
    """Write lists as the command line wants them."""
    return {name: json.dumps(value) if isinstance(value, list) else value for name, value in settings.items()}


@pytest.fixture(scope="module")
def two_trainings(run, beats, tmp_path_factory):
    """Folders "one" and "two" of the same training, validated on three patients, by one and by two processes."""
    root = tmp_path_factory.mktemp("cine_processes")
    # Adam divides a gradient by its size: where there is next to none, rounding would decide the whole step. Behind the
    # last layer of the deformation, which starts near zero, all gradients are next to none.
    settings = {**run.cine_tiny, "dataset_dir": str(beats), "optimizer#eps": 1e-3, "max_epochs": 3, "batch_size": 2}
    settings |= {"save_interval": 1}
    settings |= {"val_fraction": 0.4, "target_dropout": 0.5}
    settings["validate#dataset#data"] = "%train#dataset#data"  # two or three patients for two processes
    run.here(run.cine, "training", "train", bundle_root=str(root / "one"), **settings)
    parts = run.arguments(
        run.cine, "training", "train", "multi_gpu_train", **lists(settings), bundle_root=str(root / "two")
    )
    result = run.command(*TORCHRUN, *parts, cwd=root)
    assert result.code == 0, result.err
    return root


def test_two_processes_train_the_weights_of_one(two_trainings):
    one, two = (
        torch.load(two_trainings / name / "models" / "checkpoint_epoch=3.pt", weights_only=True)
        for name in ("one", "two")
    )
    start = torch.load(two_trainings / "one" / "models" / "checkpoint_epoch=2.pt", weights_only=True)["network"]
    moved = max(float((value - one["network"][key]).abs().max()) for key, value in start.items())
    assert moved > 1e-4, "the weights hardly move, so the comparison says nothing"
    for part in ("network", "ema"):
        assert one[part].keys() == two[part].keys()
        assert max(float((value - two[part][key]).abs().max()) for key, value in one[part].items()) <= 2e-6


def test_two_processes_validate_what_one_does(two_trainings):
    one, two = (
        [json.loads(line) for line in open(two_trainings / name / "eval" / "history.jsonl")] for name in ("one", "two")
    )
    assert [line["epoch"] for line in two] == [1, 2, 3], "only one process writes"
    assert [line["val_loss"] for line in one] == pytest.approx([line["val_loss"] for line in two], abs=1e-4)


def test_two_processes_generate_the_files_of_one(run, beats, cine_trained, tmp_path):
    settings = {**run.cine_tiny_generation, "weights": str(cine_trained / "models" / "model.pt"), "num_samples": 2}
    settings |= {"dataset_dir": str(beats), "split": "validation", "mode": "generation", "gif": False}
    settings["num_samples"] = 3
    run.here(run.cine, "inferring", "inference", bundle_root=str(tmp_path / "one"), **settings)
    parts = run.arguments(run.cine, "inferring", "inference", **lists(settings), bundle_root=str(tmp_path / "two"))
    result = run.command(*TORCHRUN, *parts, cwd=tmp_path)
    assert result.code == 0, result.err

    def files(name):
        folder = tmp_path / name / "eval" / "synthetic"
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.jsonl"}

    assert len(files("one")) == 9 and files("one") == files("two")
    assert not list((tmp_path / "two" / "eval" / "synthetic").glob("manifest.rank*"))


def test_two_processes_report_what_one_does(run, beats, cine_trained, tmp_path):
    settings = {**run.cine_tiny, "weights": str(cine_trained / "models" / "model.pt"), "dataset_dir": str(beats)}
    settings["split"] = "training"  # three patients: one of the two processes has a copy
    run.here(run.cine, "evaluating", "train", "evaluate", bundle_root=str(tmp_path / "one"), **settings)
    parts = run.arguments(
        run.cine, "evaluating", "train", "evaluate", **lists(settings), bundle_root=str(tmp_path / "two")
    )
    result = run.command(*TORCHRUN, *parts, cwd=tmp_path)
    assert result.code == 0, result.err
    one, two = (json.loads((tmp_path / name / "eval" / "report.json").read_text()) for name in ("one", "two"))
    assert one["n_patients"] == two["n_patients"] == 3 and one["rows"] == two["rows"] and one["means"] == two["means"]
