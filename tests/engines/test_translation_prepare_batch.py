"""Batches of translation: latents, targets, dropped contexts, directions, and what goes to the network."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SimpleInferer
from torch import nn

from monai_mamba_gen.engines import TranslationPrepareBatch
from monai_mamba_gen.losses import HybridDiffusionLoss
from monai_mamba_gen.networks.nets import DiffMa, LatentSpace
from monai_mamba_gen.networks.schedulers import RespacedDDPMScheduler


class FoldedSpace(nn.Module):
    """A latent space without loss: blocks of 2 x 2 pixels become channels, times 3."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(3.0))
        self.calls = 0

    def encode(self, images):
        self.calls += 1
        return nn.functional.pixel_unshuffle(images, 2) * self.weight


def make(prediction_type="epsilon", steps=100, latent_space=None, **options):
    scheduler = RespacedDDPMScheduler(100, prediction_type=prediction_type)
    return TranslationPrepareBatch(latent_space or FoldedSpace(), steps, scheduler, **options)


def pairs(count=4, **more):
    image, target = torch.rand(2, count, 1, 6, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return {"image": image, "target": target, **more}


def call(prepare_batch, batch=None, step=None):
    if step is not None:
        prepare_batch.set_step(step)
    return prepare_batch(pairs() if batch is None else batch)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_what_a_call_returns(prediction_type):
    batch, prepare_batch = pairs(), make(prediction_type)
    x, targets, args, kwargs = call(prepare_batch, batch)
    assert args == () and sorted(kwargs) == ["context", "timesteps"]
    assert sorted(targets) == ["clean", "noisy", "prediction", "timesteps"]
    clean = nn.functional.pixel_unshuffle(batch["target"], 2) * 3
    assert torch.equal(targets["clean"], clean) and clean.shape == (4, 4, 3, 2)
    assert torch.equal(kwargs["context"], nn.functional.pixel_unshuffle(batch["image"], 2) * 3)
    assert targets["noisy"] is x and torch.equal(targets["timesteps"], kwargs["timesteps"])
    power = prepare_batch.scheduler.alphas_cumprod[kwargs["timesteps"]].reshape(-1, 1, 1, 1)
    noise = (x - power**0.5 * clean) / (1 - power) ** 0.5
    velocity = power**0.5 * noise - (1 - power) ** 0.5 * clean
    expected = {"epsilon": noise, "sample": clean, "v_prediction": velocity}[prediction_type]
    torch.testing.assert_close(targets["prediction"], expected, atol=2e-4, rtol=1e-4)


def test_latent_space_is_frozen_and_asked_once():
    space = FoldedSpace().train()
    prepare_batch = make(latent_space=space)
    x, targets, _, kwargs = call(prepare_batch)
    assert space.calls == 1 and not space.training and not space.weight.requires_grad
    assert not any(each.requires_grad for each in (x, *targets.values(), *kwargs.values()))


def test_draws_depend_on_seed_and_step_alone():
    options = {"condition_dropout": 0.5, "direction": "both"}
    first, again = (call(make(seed=1, **options), step=7) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert all(torch.equal(first[3][key], again[3][key]) for key in first[3])
    for other in (call(make(seed=1, **options), step=8), call(make(seed=2, **options), step=7)):
        assert not torch.equal(first[0], other[0])
    prepare_batch = make()
    assert not torch.equal(call(prepare_batch)[0], call(prepare_batch)[0]), "every call moves on"


def test_ranks_deal_the_rows_of_the_global_batch(monkeypatch):
    options = {"condition_dropout": 0.5, "direction": "both", "pass_position": True}
    batch = pairs(6, position=torch.linspace(0, 1, 6))
    whole = call(make(**options), batch, step=2)
    for rank in range(3):
        monkeypatch.setattr("monai_mamba_gen.engines.prepare_batch.get_rank", lambda rank=rank: rank)
        monkeypatch.setattr("monai_mamba_gen.engines.prepare_batch.get_world_size", lambda: 3)
        part = call(make(**options), {key: value[rank::3] for key, value in batch.items()}, step=2)
        assert torch.equal(part[0], whole[0][rank::3])
        assert all(torch.equal(part[3][key], whole[3][key][rank::3]) for key in whole[3])


def test_dropped_contexts_are_minus_one_and_targets_stay():
    prepare_batch, dropped = make(condition_dropout=0.3), []
    for step in range(40):
        _, targets, _, kwargs = call(prepare_batch, step=step)
        empty = (kwargs["context"] == -1).flatten(1)
        assert torch.equal(empty.any(1), empty.all(1))
        dropped.append(empty.all(1))
        assert bool(targets["clean"].std() > 0.5)
    assert 0.2 < float(torch.cat(dropped).double().mean()) < 0.4


def test_fixed_follows_the_index_and_drops_nothing():
    batch = pairs(index=torch.tensor([3, 8, 9, 20]))
    prepare_batch = make(fixed=True, condition_dropout=1.0, direction="both")
    x, _, _, kwargs = call(prepare_batch, batch, step=1)
    assert not (kwargs["context"] == -1).any()
    half = {key: value[[3, 0]] for key, value in batch.items()}
    other = call(prepare_batch, half, step=50)
    assert torch.equal(other[0], x[[3, 0]])
    assert all(torch.equal(other[3][key], kwargs[key][[3, 0]]) for key in kwargs)


def test_directions():
    batch = pairs(32)
    there, back = (call(make(direction=each), batch, step=1) for each in ("ct2mr", "mr2ct"))
    assert torch.equal(there[3]["context"], back[1]["clean"]) and torch.equal(there[1]["clean"], back[3]["context"])
    assert "direction" not in there[3] and "direction" not in back[3]
    _, targets, _, kwargs = call(make(direction="both"), batch, step=1)
    direction = kwargs["direction"]
    assert direction.dtype == torch.int64 and 8 < int(direction.sum()) < 24
    for value, expected in ((0, there), (1, back)):
        rows = direction == value
        assert torch.equal(targets["clean"][rows], expected[1]["clean"][rows])
        assert torch.equal(kwargs["context"][rows], expected[3]["context"][rows])


def test_position_and_image_embedding():
    def embed(images):
        assert not torch.is_grad_enabled()
        return images.mean((2, 3)).expand(-1, 5)

    batch = pairs(position=[0.0, 0.25, 0.5, 1.0])
    _, _, _, kwargs = call(make(pass_position=True, image_embedder=embed, direction="mr2ct"), batch)
    assert kwargs["position"].tolist() == [0.0, 0.25, 0.5, 1.0] and kwargs["position"].dtype == torch.float32
    torch.testing.assert_close(kwargs["image_embedding"][:, 0], batch["target"].mean((1, 2, 3)))


def test_meta_tensors_become_plain():
    batch = {key: MetaTensor(value) for key, value in pairs().items()}
    x, targets, _, kwargs = make()(batch, "cpu")
    assert {type(each) for each in (x, *targets.values(), *kwargs.values())} == {torch.Tensor}


def test_errors():
    with pytest.raises(ValueError, match="direction must be one of .*, got 'ct2pet'"):
        make(direction="ct2pet")
    with pytest.raises(ValueError, match="num_train_timesteps must be at most 100, the scheduler's, got 200"):
        make(steps=200)
    with pytest.raises(ValueError, match="condition_dropout"):
        make(condition_dropout=2.0)
    with pytest.raises(ValueError, match="batch must have 'position', it has"):
        make(pass_position=True)(pairs())
    with pytest.raises(ValueError, match=r"target must have the image's shape \(4, 1, 6, 4\)"):
        make()(pairs() | {"target": torch.zeros(4, 1, 6, 6)})


@pytest.mark.parametrize("learn_sigma", [False, True])
def test_trains_diffma_in_both_directions(learn_sigma):
    """One batch learnt by heart: the real network, latent space and loss fit together."""
    torch.manual_seed(0)
    network = DiffMa.from_preset(
        "tiny/2", in_channels=1, image_size=8, hidden_size=16, num_layers=2, learn_sigma=learn_sigma,
        slice_position=True, num_directions=2,
    )  # fmt: skip
    options = {"direction": "both", "pass_position": True, "condition_dropout": 0.3}
    prepare_batch = make("v_prediction", latent_space=LatentSpace(), **options)
    loss, optimizer = HybridDiffusionLoss(prepare_batch.scheduler), torch.optim.AdamW(network.parameters(), 1e-2)
    image = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    batch = {"image": image, "target": image.flip(2), "position": torch.linspace(0, 1, 4)}
    losses = []
    for _ in range(30):
        x, targets, args, kwargs = call(prepare_batch, batch, step=1)
        value = loss(SimpleInferer()(x, network, *args, **kwargs), targets)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(loss.parts["simple" if learn_sigma else "loss"])
    assert losses[-1] < 0.6 * losses[0]
