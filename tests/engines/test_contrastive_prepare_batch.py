"""Views: keyed draws, what each augmentation does, and what is left alone."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from monai_mamba_gen.engines import ContrastivePrepareBatch
from monai_mamba_gen.networks.nets import LatentSpace

OFF = {"max_shift": 0.0, "flip_axes": (), "contrast": 0.0, "brightness": 0.0, "noise": 0.0}


def images(count=4, size=(10, 20)):
    return torch.rand(count, 1, *size, generator=torch.Generator().manual_seed(0)) - 0.5


def call(batch=None, step=None, **options):
    prepare_batch = ContrastivePrepareBatch(LatentSpace(), **options)
    if step is not None:
        prepare_batch.set_step(step)
    return prepare_batch({"image": images()} if batch is None else batch)[0]


def test_without_augmentation_views_are_the_images():
    views, target = ContrastivePrepareBatch(LatentSpace(), **OFF)({"image": MetaTensor(images())})
    assert torch.equal(views, torch.cat([images()] * 2)) and target.tolist() == [0, 1, 2, 3]
    assert type(views) is torch.Tensor and not views.requires_grad


def test_views_differ_stay_in_range_and_repeat_by_seed_and_step():
    first = call(step=3)
    assert torch.equal(first, call(step=3))
    assert not torch.equal(first[:4], first[4:])
    for other in (call(step=4), call(step=3, seed=1)):
        assert not torch.equal(first, other)
    assert float(first.abs().max()) <= 1
    prepare_batch = ContrastivePrepareBatch(LatentSpace())
    batch = {"image": images()}
    assert not torch.equal(prepare_batch(batch)[0], prepare_batch(batch)[0]), "every call moves on"


def test_ranks_deal_the_rows_of_the_global_batch(monkeypatch):
    whole = call(step=2)
    for rank in range(2):
        monkeypatch.setattr("monai_mamba_gen.engines.contrastive_prepare_batch.get_rank", lambda rank=rank: rank)
        monkeypatch.setattr("monai_mamba_gen.engines.contrastive_prepare_batch.get_world_size", lambda: 2)
        half = call({"image": images()[rank::2]}, step=2)
        assert torch.equal(half, torch.cat([whole[:4][rank::2], whole[4:][rank::2]]))


def test_fixed_views_follow_the_index():
    batch = {"image": images(), "index": torch.tensor([3, 8, 9, 20])}
    views = call(batch, fixed=True, step=1)
    swapped = call({"image": images()[[3, 0]], "index": [20, 3]}, fixed=True, step=7)
    assert torch.equal(swapped, torch.cat([views[:4][[3, 0]], views[4:][[3, 0]]]))


def test_shifts_move_by_whole_pixels_and_repeat_the_border():
    image = torch.arange(200.0).reshape(1, 1, 10, 20) / 200 - 0.5
    seen = set()
    for step in range(40):
        for view in call({"image": image}, step=step, **{**OFF, "max_shift": 0.1}):
            moves = [
                (down, right)
                for down in range(-1, 2)
                for right in range(-2, 3)
                if torch.equal(view[0, 1:-1, 2:-2], image[0, 0].roll((down, right), (0, 1))[1:-1, 2:-2])
            ]
            assert len(moves) == 1, "no other move explains it"
            seen.add(moves[0])
    assert len(seen) == 15
    assert torch.equal(view.unique(), image[0][torch.isin(image[0], view)].unique()), "only grey values of the image"


def test_flips_and_intensities():
    image = images(1)
    flipped = {
        tuple(axis for axis in ((), (1,), (2,), (1, 2)) if torch.equal(view, image[0].flip(axis)))
        for step in range(20)
        for view in call({"image": image}, step=step, **{**OFF, "flip_axes": (0, 1)})
    }
    assert len(flipped) == 4
    view = call({"image": image}, **{**OFF, "contrast": 0.2, "brightness": 0.1})[0]
    gain = float((view.max() - view.min()) / (image.max() - image.min()))
    assert 0.8 <= gain <= 1.2 and gain != 1
    torch.testing.assert_close(view - view.mean(), gain * (image[0] - image[0].mean()), rtol=1e-4, atol=1e-5)
    noise = call({"image": 0 * image}, **{**OFF, "noise": 0.05})
    assert float(noise.std()) == pytest.approx(0.05, rel=0.15)


@pytest.mark.parametrize("wrong", [{"max_shift": 1.0}, {"contrast": -0.1}, {"noise": -1.0}, {"flip_axes": (2,)}])
def test_arguments(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ContrastivePrepareBatch(LatentSpace(), **wrong)
