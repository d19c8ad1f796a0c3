"""Several processes give what one gives: torchrun with gloo, the bundle's configs unchanged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m")


@pytest.fixture(scope="module")
def two_trainings(run, phantoms, tmp_path_factory) -> Path:
    """Folders "one" and "two" of the same training of 24 steps by one and by two processes."""
    root = tmp_path_factory.mktemp("processes")
    # Adam divides a gradient by its size: where there is next to none, rounding would decide the whole step.
    settings = {**run.tiny, "max_epochs": 4, "dataset_dir": str(phantoms), "optimizer#eps": 1e-6}
    run.here(run.acdc, "training", "train", bundle_root=str(root / "one"), **settings)
    settings |= {"image_size": "[16,16]", "bundle_root": str(root / "two")}
    parts = run.arguments(run.acdc, "training", "train", "multi_gpu_train", **settings)
    result = run.command(*TORCHRUN, *parts, cwd=root)
    assert result.code == 0, result.err
    return root


def weights(path):
    checkpoint = torch.load(path / "models" / "checkpoint_epoch=4.pt", weights_only=True)
    assert checkpoint["trainer"]["iteration"] == 24
    return {f"{part}.{name}": value for part in ("network", "ema") for name, value in checkpoint[part].items()}


def test_two_processes_train_the_weights_of_one(two_trainings):
    one, two = weights(two_trainings / "one"), weights(two_trainings / "two")
    assert one.keys() == two.keys()
    assert max(float((value - two[name]).abs().max()) for name, value in one.items()) <= 1e-6
    start = torch.load(two_trainings / "one" / "models" / "checkpoint_epoch=3.pt", weights_only=True)["network"]
    moved = max(float((value - one[f"network.{name}"]).abs().max()) for name, value in start.items())
    assert moved > 1e-4, "the weights hardly move, so the comparison says nothing"


def test_two_processes_validate_what_one_does(two_trainings):
    one, two = (
        [json.loads(line) for line in open(two_trainings / name / "eval" / "history.jsonl")] for name in ("one", "two")
    )
    assert [line["epoch"] for line in two] == [1, 2, 3, 4], "only one process writes"
    assert [line["val_loss"] for line in one] == pytest.approx([line["val_loss"] for line in two], abs=1e-6)


def test_only_one_process_writes(two_trainings):
    def names(folder, pattern="*"):
        found = [str(path.relative_to(folder)) for path in folder.rglob(pattern) if path.is_file()]
        return sorted(name for name in found if "tfevents" not in name)

    assert names(two_trainings / "one") == names(two_trainings / "two")
    events = [len(list((two_trainings / name).rglob("*tfevents*"))) for name in ("one", "two")]
    assert events[0] == events[1]
    pictures = [(two_trainings / name / "eval" / "samples" / "epoch_0004.png").is_file() for name in ("one", "two")]
    assert pictures == [True, True]


@pytest.fixture(scope="module")
def generated(run, phantoms, trained, extractor, tmp_path_factory) -> Path:
    """Folders world1, world2, world3: the same seeds and report by one, two and three processes."""
    root = tmp_path_factory.mktemp("generated")
    configs = run.acdc / "configs"
    common = {
        "bundle_root": f"{root}/world{{world}}",
        "weights": str(trained / "models" / "model.pt"),
        "num_samples": 7,
    }
    # four batches of two: the third process of three has one batch less than the others
    common |= {**run.tiny_generation, "batch_size": 2}
    generation = {**common, "run_id": "inferring", "config_file": str(configs / "inference.json")}
    files = [str(configs / "train.json"), str(configs / "evaluate.json"), str(extractor)]
    scoring = {**common, "run_id": "evaluating", "config_file": files, "dataset_dir": str(phantoms)}
    result = run.command(str(Path(__file__).with_name("processes.py")), json.dumps([generation, scoring]), cwd=root)
    assert result.code == 0, result.err
    return root


@pytest.mark.parametrize("world", [2, 3])
def test_sharded_sampling_gives_identical_files(generated, world):
    def files(number):
        folder = generated / f"world{number}" / "eval" / "synthetic"
        assert (folder / "manifest.jsonl").is_file() and not list(folder.glob("manifest.rank*"))
        found = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.jsonl"}
        records = [json.loads(line) for line in open(folder / "manifest.jsonl")]
        return found, [{key: value for key, value in record.items() if key != "date"} for record in records]

    one, records = files(1)
    assert len([name for name in one if name.startswith("seed_")]) == 7 and "grid.png" in one
    assert len(set(one.values())) == 8, "all images are different"
    assert files(world) == (one, records)


def numbers(tree, prefix=""):
    """Return the leaves of nested containers by path."""
    if isinstance(tree, (dict, list)):
        pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {k: v for key, value in pairs for k, v in numbers(value, f"{prefix}/{key}").items()}
    return {prefix: tree}


@pytest.mark.parametrize("world", [2, 3])
def test_report_does_not_depend_on_the_number_of_processes(generated, world):
    one, many = (
        numbers(json.loads((generated / f"world{number}" / "eval" / "report.json").read_text()))
        for number in (1, world)
    )
    assert one.keys() == many.keys() and one["/n_fake"] == 7
    for key, value in one.items():
        assert many[key] == (pytest.approx(value, rel=1e-6, abs=1e-9) if isinstance(value, float) else value), key


def test_more_processes_than_batches(run, trained, tmp_path):
    """A process without work neither fails nor keeps the others waiting; torchrun as the user calls it."""
    settings = {**run.tiny_generation, "image_size": "[16,16]", "weights": str(trained / "models" / "model.pt")}
    parts = run.arguments(run.acdc, "inferring", "inference", bundle_root=str(tmp_path), num_samples=3, **settings)
    result = run.command(*TORCHRUN, *parts, cwd=tmp_path)
    assert result.code == 0, result.err
    folder = tmp_path / "eval" / "synthetic"
    assert [json.loads(line)["seed"] for line in open(folder / "manifest.jsonl")] == [0, 1, 2]
    assert sorted(path.name for path in folder.glob("manifest*")) == ["manifest.jsonl"]
