"""Several processes train, convert and score what one does, the configs unchanged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m")


def lists(settings):
    """Write lists as the command line wants them."""
    return {name: json.dumps(value) if isinstance(value, list) else value for name, value in settings.items()}


def torchrun(run, folder, run_id, *names, **settings):
    result = run.command(*TORCHRUN, *run.arguments(run.diffma, run_id, *names, **lists(settings)), cwd=folder)
    assert result.code == 0, result.err


def difference(root, file, part):
    one, two = (torch.load(root / name / "models" / file, weights_only=True)[part] for name in ("one", "two"))
    assert one.keys() == two.keys()
    return max(float((value - two[key]).abs().max()) for key, value in one.items())


def test_two_processes_train_the_weights_of_one(run, pairs, autoencoder, tmp_path):
    settings = {**run.diffma_tiny, "dataset_dir": str(pairs), "condition_dropout": 0.5, "direction": "both"}
    # AdamW divides a gradient by its size: where there is next to none, rounding would decide the whole step
    settings |= {"optimizer#eps": 1e-3, "autoencoder_weights": str(autoencoder / "models" / "autoencoder.pt")}
    run.here(run.diffma, "training", "train", bundle_root=str(tmp_path / "one"), **settings)
    torchrun(run, tmp_path, "training", "train", "multi_gpu_train", bundle_root=str(tmp_path / "two"), **settings)
    assert difference(tmp_path, "checkpoint_epoch=1.pt", "network") <= 2e-6
    one, two = (json.loads((tmp_path / name / "eval" / "history.jsonl").read_text()) for name in ("one", "two"))
    assert one["val_loss"] == pytest.approx(two["val_loss"], abs=1e-4)


def test_two_processes_train_the_first_stage(run, pairs, tmp_path):
    """The posterior is sampled from each process's own stream, so the weights differ; the scale is of all slices."""
    settings = {**run.diffma_tiny, "dataset_dir": str(pairs)}
    torchrun(run, tmp_path, "training", "train_autoencoder", "multi_gpu_train", bundle_root=str(tmp_path), **settings)
    state = torch.load(tmp_path / "models" / "autoencoder.pt", weights_only=True)
    assert 0 < float(state["scale_factor"]) < 1e3 and not any(key.startswith("module.") for key in state)


def test_any_number_of_processes_converts_and_scores_alike(run, pairs, diffma_trained, tmp_path):
    names = {"weights": "model.pt", "autoencoder_weights": "autoencoder.pt"}
    common = {key: str(diffma_trained / "models" / name) for key, name in names.items()}
    common |= {"dataset_dir": str(pairs), "bundle_root": f"{tmp_path}/world{{world}}"}
    configs = [str(run.diffma / "configs" / f"{name}.json") for name in ("inference", "train", "evaluate")]
    # three patients in the report: one of two processes has a copy
    jobs = [
        {**run.diffma_tiny_inference, **common, "run_id": "inferring", "config_file": configs[0]},
        {**run.diffma_tiny, **common, "run_id": "evaluating", "config_file": configs[1:], "split": "training"},
    ]
    result = run.command(str(Path(__file__).with_name("processes.py")), json.dumps(jobs), cwd=tmp_path)
    assert result.code == 0, result.err

    def made(world):
        folder = tmp_path / f"world{world}" / "eval"
        files = {path.name: path.read_bytes() for path in (folder / "synthetic").iterdir() if path.suffix != ".jsonl"}
        return files, json.loads((folder / "report.json").read_text())

    files, report = made(1)
    assert len(files) == 12 and report["n_patients"] == 3
    assert made(2) == made(3) == (files, report)
