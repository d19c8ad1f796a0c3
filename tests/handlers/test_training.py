"""Whole trainings: the same seed gives the same weights, resumed or not."""

from __future__ import annotations

import json

import pytest
import torch


def flat(tree, prefix=""):
    """Return every tensor and number of nested state dicts by path."""
    if isinstance(tree, dict):
        return {k: v for key, value in tree.items() for k, v in flat(value, f"{prefix}/{key}").items()}
    if isinstance(tree, (list, tuple)):
        return flat(dict(enumerate(tree)), prefix)
    return {prefix: tree}


def checkpoint(training, epoch):
    return flat(torch.load(training.folder / f"checkpoint_epoch={epoch}.pt", weights_only=True))


def largest_difference(first, second):
    assert first.keys() == second.keys()
    differences = [0.0]
    for key, value in first.items():
        if isinstance(value, torch.Tensor):
            differences.append(float((value.double() - second[key].double()).abs().max()))
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            differences.append(abs(value - second[key]))
        else:
            assert value == second[key], key
    return max(differences)


def test_same_seed_gives_equal_weights(make_training):
    first, second = make_training("a", max_epochs=5), make_training("b", max_epochs=5)
    first.trainer.run()
    torch.rand(17)  # what other code drew before must not matter
    second.trainer.run()
    assert first.trainer.state.iteration == 20
    assert largest_difference(checkpoint(first, 5), checkpoint(second, 5)) == 0.0


def test_another_seed_gives_other_weights(make_training):
    first, second = make_training("a", max_epochs=1), make_training("b", max_epochs=1, seed=4)
    first.trainer.run()
    second.trainer.run()
    assert largest_difference(checkpoint(first, 1), checkpoint(second, 1)) > 1e-6


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_resumed_training_equals_the_uninterrupted_one(make_training, schedule):
    whole = make_training("whole", schedule=schedule)
    whole.trainer.run()
    make_training("parts", max_epochs=2, schedule=schedule).trainer.run()
    torch.rand(5)
    resumed = make_training("parts", resume=True, schedule=schedule)
    resumed.trainer.run()
    expected, got = checkpoint(whole, 4), checkpoint(resumed, 4)
    assert largest_difference(expected, got) == 0.0
    assert any(key.startswith("/optimizer/state") for key in got) and "/ema/first.weight" in got
    assert got["/trainer/iteration"] == 16
    drop_times = [
        [{k: v for k, v in json.loads(line).items() if "second" not in k} for line in open(t.folder / "history.jsonl")]
        for t in (whole, resumed)
    ]
    assert drop_times[0] == drop_times[1] and len(drop_times[0]) == 4


def test_resume_without_reseeding_would_differ(make_training):
    """The comparison above can fail: without the per-epoch seeds the resumed weights are others."""
    whole, parts = make_training("whole"), make_training("parts", max_epochs=2)
    whole.trainer.run()
    parts.trainer.run()
    resumed = make_training("parts", resume=True, seed=99)
    resumed.trainer.run()
    assert largest_difference(checkpoint(whole, 4), checkpoint(resumed, 4)) > 1e-6


def test_training_learns_and_validation_is_repeatable(make_training):
    training = make_training(max_epochs=12)
    training.trainer.run()
    lines = [json.loads(line) for line in open(training.folder / "history.jsonl")]
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]
    assert lines[-1]["val_loss"] < lines[0]["val_loss"]
    assert all(0 < line["gradient_norm"] < 100 for line in lines)
