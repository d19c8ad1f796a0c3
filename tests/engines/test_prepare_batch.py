from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from monai.data import MetaTensor

from monai_mamba_gen.engines import SeededDiffusionPrepareBatch

SCRIPT = Path(__file__).with_name("two_processes.py")


def draw(prepare_batch, count=4, step=None, **batch):
    if step is not None:
        prepare_batch.set_step(step)
    _, noise, _, kwargs = prepare_batch({"image": torch.zeros(count, 1, 4, 4), **batch})
    return noise, kwargs


def test_draws_depend_on_seed_and_step_alone():
    noise, kwargs = draw(SeededDiffusionPrepareBatch(1000, seed=1), step=7)
    torch.rand(3)
    again, kwargs_again = draw(SeededDiffusionPrepareBatch(1000, seed=1), step=7)
    assert torch.equal(noise, again) and torch.equal(kwargs["timesteps"], kwargs_again["timesteps"])
    assert kwargs["noise"] is noise
    for other in (
        draw(SeededDiffusionPrepareBatch(1000, seed=2), step=7),
        draw(SeededDiffusionPrepareBatch(1000, seed=1), step=8),
    ):
        assert not torch.equal(noise, other[0])
        assert not torch.equal(kwargs["timesteps"], other[1]["timesteps"])


def test_without_set_step_every_call_moves_on():
    prepare_batch = SeededDiffusionPrepareBatch(1000)
    assert not torch.equal(draw(prepare_batch)[0], draw(prepare_batch)[0])


def test_noise_is_standard_normal_and_timesteps_are_uniform():
    prepare_batch = SeededDiffusionPrepareBatch(10, seed=3)
    drawn = [draw(prepare_batch, count=64) for _ in range(30)]
    noise = torch.cat([each for each, _ in drawn])
    steps = torch.cat([kwargs["timesteps"] for _, kwargs in drawn])
    assert abs(float(noise.mean())) < 0.02 and abs(float(noise.std()) - 1) < 0.02
    assert steps.min() == 0 and steps.max() == 9 and steps.dtype == torch.long
    counts = torch.bincount(steps, minlength=10).double()
    assert float(((counts - 192) ** 2 / 192).sum()) < 27.9  # chi-squared, 9 degrees of freedom, p = 0.001


def test_ranks_deal_the_rows_of_the_global_batch(monkeypatch):
    whole = draw(SeededDiffusionPrepareBatch(1000), count=6, step=2)
    for rank in range(3):
        monkeypatch.setattr("monai_mamba_gen.engines.prepare_batch.get_rank", lambda rank=rank: rank)
        monkeypatch.setattr("monai_mamba_gen.engines.prepare_batch.get_world_size", lambda: 3)
        noise, kwargs = draw(SeededDiffusionPrepareBatch(1000), count=2, step=2)
        assert torch.equal(noise, whole[0][rank::3])
        assert torch.equal(kwargs["timesteps"], whole[1]["timesteps"][rank::3])


def test_fixed_draws_follow_the_index():
    prepare_batch = SeededDiffusionPrepareBatch(1000, fixed=True)
    noise, kwargs = draw(prepare_batch, index=torch.tensor([3, 8, 9, 20]))
    other_noise, other_kwargs = draw(prepare_batch, count=2, step=50, index=[20, 3])
    assert torch.equal(other_noise, noise[[3, 0]])
    assert torch.equal(other_kwargs["timesteps"], kwargs["timesteps"][[3, 0]])


def test_fixed_timesteps_are_spread_evenly():
    _, kwargs = draw(SeededDiffusionPrepareBatch(1000, fixed=True), count=50, index=torch.arange(50))
    ordered = kwargs["timesteps"].sort().values
    gaps = ordered.diff()
    assert ordered[0] < 40 and ordered[-1] > 960 and gaps.max() < 40  # three gap lengths at most, none above 2 / 50


def test_fixed_without_index_repeats_by_step():
    prepare_batch = SeededDiffusionPrepareBatch(1000, fixed=True)
    first, second = draw(prepare_batch, step=1), draw(prepare_batch, step=2)
    assert not torch.equal(first[0], second[0]) and not torch.equal(first[1]["timesteps"], second[1]["timesteps"])
    assert torch.equal(draw(prepare_batch, step=1)[0], first[0])


@pytest.mark.parametrize("shape", [(64,), (64, 3, 5)])
def test_condition_dropout(shape):
    condition = torch.full(shape, 2)
    prepare_batch = SeededDiffusionPrepareBatch(10, "label", condition_dropout=0.25)
    got = torch.cat([draw(prepare_batch, count=64, step=s, label=condition)[1]["condition"] for s in range(20)])
    rows = got.flatten(1)[:, 0] if got.ndim > 1 else got
    assert torch.equal(got, rows.reshape(-1, *[1] * (len(shape) - 1)).expand_as(got))
    assert set(rows.tolist()) == {-1, 2} and 0.2 < float((rows == -1).double().mean()) < 0.3
    fixed = SeededDiffusionPrepareBatch(10, "label", condition_dropout=1.0, fixed=True)
    assert torch.equal(draw(fixed, count=64, label=condition)[1]["condition"], condition)


def test_meta_tensors_become_plain():
    batch = {"image": MetaTensor(torch.ones(2, 1, 4, 4)), "label": MetaTensor(torch.ones(2))}
    images, target, args, kwargs = SeededDiffusionPrepareBatch(10, "label")(batch, "cpu")
    assert args == ()
    assert {type(each) for each in (images, target, *kwargs.values())} == {torch.Tensor}


def test_a_batch_without_the_condition_is_refused():
    with pytest.raises(ValueError, match="condition_name must be a key of the batch .*got 'class_label'"):
        draw(SeededDiffusionPrepareBatch(10, "class_label"), count=2)


@pytest.mark.parametrize("wrong", [{"num_train_timesteps": 0}, {"condition_dropout": 1.5}])
def test_arguments(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SeededDiffusionPrepareBatch(**{"num_train_timesteps": 10, **wrong})


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_two_processes_with_half_the_batch_equal_one(tmp_path):
    spec = importlib.util.spec_from_file_location("two_processes", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    root = str(SCRIPT.parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([root, *sys.path])}
    subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], check=True, timeout=120, env=environment)
    one = module.train(0, 1)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    for step, whole in enumerate(one["drawn"]):
        for rank in range(2):
            for name, value in ranks[rank]["drawn"][step].items():
                assert torch.equal(value, whole[name][rank::2]), (step, name)
    assert {int(c) for step in one["drawn"] for c in step["condition"]} >= {-1, 3}
    for name, weight in one["weights"].items():
        assert torch.equal(ranks[0]["weights"][name], ranks[1]["weights"][name])
        assert float((weight - ranks[0]["weights"][name]).abs().max()) <= 1e-6, name
