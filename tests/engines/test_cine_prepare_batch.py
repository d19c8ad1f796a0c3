"""Batches of deformable diffusion: keyed draws, targets, missing end systole, phases."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from monai_mamba_gen.engines import CinePrepareBatch
from monai_mamba_gen.networks.schedulers import RespacedDDPMScheduler

SIZE = (4, 4, 3)


def make(steps=100, prediction_type="epsilon", **options):
    return CinePrepareBatch(steps, RespacedDDPMScheduler(100, prediction_type=prediction_type), **options)


def volumes(count=4):
    generator = torch.Generator().manual_seed(0)
    image, target = torch.rand(2, count, 1, *SIZE, generator=generator) * 2 - 1
    return {"image": image, "target": target}


def call(prepare_batch, batch=None, step=None):
    if step is not None:
        prepare_batch.set_step(step)
    return prepare_batch(volumes() if batch is None else batch)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_what_a_call_returns(prediction_type):
    batch = volumes()
    prepare_batch = make(prediction_type=prediction_type)
    x, targets, args, kwargs = call(prepare_batch, batch)
    assert args == () and sorted(kwargs) == ["context", "phases", "timesteps"]
    assert sorted(targets) == ["known", "noisy", "prediction", "volume"]
    assert bool(targets["known"].all()) and bool(targets["noisy"].all())
    assert torch.equal(targets["volume"], batch["target"])
    assert torch.equal(kwargs["context"], torch.cat([batch["image"], batch["target"]], dim=1))
    assert kwargs["phases"].tolist() == [[1.0]] * 4
    power = prepare_batch.scheduler.alphas_cumprod[kwargs["timesteps"]].reshape(-1, 1, 1, 1, 1)
    noise = (x - power**0.5 * batch["target"]) / (1 - power) ** 0.5
    expected = {
        "epsilon": noise,
        "sample": batch["target"],
        "v_prediction": power**0.5 * noise - (1 - power) ** 0.5 * batch["target"],
    }[prediction_type]
    torch.testing.assert_close(targets["prediction"], expected, atol=2e-4, rtol=0)
    assert abs(float(targets["prediction"].mean())) < 0.5


def test_draws_depend_on_seed_and_step_alone():
    options = {"target_dropout": 0.5, "phases_per_step": 2}
    first = call(make(seed=1, **options), step=7)
    torch.rand(3)
    again, other = call(make(seed=1, **options), step=7), call(make(seed=1, **options), step=8)
    assert torch.equal(first[0], again[0])
    assert all(torch.equal(first[3][key], again[3][key]) for key in first[3])
    assert not torch.equal(first[0], other[0]) and not torch.equal(first[3]["phases"], other[3]["phases"])
    prepare_batch = make()
    assert not torch.equal(call(prepare_batch)[0], call(prepare_batch)[0]), "every call moves on"


def test_ranks_deal_the_rows_of_the_global_batch(monkeypatch):
    options = {"target_dropout": 0.5, "phases_per_step": 1}
    batch = volumes(6)
    whole = call(make(**options), batch, step=2)
    for rank in range(3):
        monkeypatch.setattr("monai_mamba_gen.engines.prepare_batch.get_rank", lambda rank=rank: rank)
        monkeypatch.setattr("monai_mamba_gen.engines.prepare_batch.get_world_size", lambda: 3)
        part = call(make(**options), {key: value[rank::3] for key, value in batch.items()}, step=2)
        assert torch.equal(part[0], whole[0][rank::3])
        assert all(torch.equal(part[3][key], whole[3][key][rank::3]) for key in whole[3])


def test_fixed_follows_the_index_and_drops_nothing():
    batch = volumes() | {"index": torch.tensor([3, 8, 9, 20])}
    prepare_batch = make(fixed=True, target_dropout=1.0, phases_per_step=3)
    x, _, _, kwargs = call(prepare_batch, batch, step=1)
    rows = [3, 0]
    other = call(prepare_batch, {key: value[rows] for key, value in batch.items()}, step=50)
    assert torch.equal(other[0], x[rows])
    assert all(torch.equal(other[3][key], kwargs[key][rows]) for key in kwargs)
    assert torch.equal(kwargs["context"][:, 1:], batch["target"])


def test_target_dropout():
    prepare_batch, batch = make(target_dropout=0.25, judge_dropped=False), volumes(64)
    dropped = 0
    for step in range(10):
        x, targets, _, kwargs = call(prepare_batch, batch, step=step)
        missing = (kwargs["context"][:, 1] == -1).flatten(1).all(1)
        assert torch.equal(targets["known"], ~missing)
        assert torch.equal(kwargs["context"][~missing][:, 1:], batch["target"][~missing])
        assert torch.equal(kwargs["context"][:, :1], batch["image"]), "ED is never missing"
        assert torch.equal(targets["volume"], batch["target"]), "what is to be made stays"
        dropped += int(missing.sum())
    assert 0.2 < dropped / 640 < 0.3
    assert bool(call(make(target_dropout=1.0), batch)[1]["known"].all()), "judged, if nothing else is said"


def test_clean_samples_are_as_interpolation_has_them():
    prepare_batch, batch = make(clean_fraction=0.4, target_dropout=1.0, judge_dropped=False), volumes(64)
    count = 0
    for step in range(10):
        x, targets, _, kwargs = call(prepare_batch, batch, step=step)
        clean = ~targets["noisy"]
        assert torch.equal(x[clean], batch["target"][clean]) and not kwargs["timesteps"][clean].any()
        assert torch.equal(targets["known"], clean), "the ES volume is dropped in noisy samples alone"
        assert torch.equal(kwargs["context"][clean][:, 1:], batch["target"][clean])
        assert not torch.isclose(x[~clean], batch["target"][~clean]).all()
        count += int(clean.sum())
    assert 0.3 < count / 640 < 0.5
    fixed = make(clean_fraction=1.0, fixed=True)
    assert bool(call(fixed, batch | {"index": list(range(64))})[1]["noisy"].all())


def test_drawn_phases_end_with_one():
    phases = call(make(phases_per_step=3))[3]["phases"]
    assert phases.shape == (4, 4) and phases.dtype == torch.float32 and (phases[:, -1] == 1).all()
    assert (phases[:, :-1] >= 0).all() and (phases[:, :-1] < 1).all() and phases[:, :-1].unique().numel() == 12


def test_true_frames_bring_their_phases():
    frames, phases = torch.rand(4, 2, *SIZE), torch.tensor([[0.25, 0.75]]).repeat(4, 1)
    _, targets, _, kwargs = call(make(phases_per_step=3), volumes() | {"frames": frames, "phases": phases})
    assert torch.equal(targets["frames"], frames) and kwargs["phases"].tolist() == [[0.25, 0.75, 1.0]] * 4
    none = volumes() | {"frames": frames[:, :0], "phases": phases[:, :0]}
    assert "frames" not in call(make(), none)[1]
    with pytest.raises(ValueError, match="frames must have shape"):
        call(make(), volumes() | {"frames": frames[:, :1], "phases": phases})


def test_meta_tensors_become_plain():
    batch = {key: MetaTensor(value) for key, value in volumes().items()}
    batch |= {"frames": MetaTensor(torch.rand(4, 1, *SIZE)), "phases": torch.full((4, 1), 0.5)}
    x, targets, _, kwargs = make()(batch, "cpu", True)
    assert {type(each) for each in (x, *targets.values(), *kwargs.values())} == {torch.Tensor}


@pytest.mark.parametrize(
    "wrong",
    [{"target_dropout": 1.5}, {"phases_per_step": -1}, {"num_train_timesteps": 0}, {"num_train_timesteps": 101}],
)
def test_arguments(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CinePrepareBatch(**{"num_train_timesteps": 10, "scheduler": RespacedDDPMScheduler(100), **wrong})
