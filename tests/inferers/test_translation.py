"""Volumes in and out: geometry, masks, what a volume depends on, averages, and what the network is told."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator
from monai.networks.nets import AutoencoderKL
from monai.networks.schedulers import DDPMScheduler
from torch import nn

from monai_mamba_gen.engines import TranslationInferenceBatch
from monai_mamba_gen.inferers import IntensityBaseline, TranslationInferer
from monai_mamba_gen.networks.nets import DiffMa, LatentSpace
from monai_mamba_gen.networks.schedulers import RespacedDDIMScheduler, RespacedDDPMScheduler


class FoldedSpace(nn.Module):
    """A latent space without loss: blocks of 2 x 2 pixels become channels, times 3; odd sizes are padded."""

    autoencoder = "something"

    def encode(self, images):
        height, width = images.shape[2:]
        padded = nn.functional.pad(images, (0, width % 2, 0, height % 2), mode="replicate")
        return nn.functional.pixel_unshuffle(padded, 2) * 3

    def decode(self, latents):
        return nn.functional.pixel_shuffle(latents / 3, 2)


class Copy(nn.Module):
    """Predicts that the target is minus the source; keeps what it was told."""

    def __init__(self, num_directions=0):
        super().__init__()
        self.num_directions = num_directions
        self.told = []

    def forward(self, x, timesteps=None, context=None, **kwargs):
        self.told.append({"count": len(x), **kwargs})
        return -context


class Noisy(nn.Module):
    """Predicts part of its noisy input and part of the context: the result depends on the noise and on the source."""

    def forward(self, x, timesteps=None, context=None):
        return 0.7 * x + 0.1 * context


def make(space=None, scheduler=None, steps=4, **options):
    scheduler = scheduler or RespacedDDPMScheduler(50, clip_sample=False, prediction_type="sample")
    return TranslationInferer(space or FoldedSpace(), scheduler, steps, **options)


def volume(count=1, size=(6, 5, 4), seed=0):
    return torch.rand(count, 1, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_each_slice_comes_back_to_its_place(axis):
    inputs = volume(2, (6, 5, 7))
    pred = make(slice_batch=3, slice_axis=axis)(inputs, Copy())
    torch.testing.assert_close(pred, -inputs, atol=5e-4, rtol=0)


def test_slices_as_inputs():
    images = volume(3, (6, 4))
    inferer, network = make(pass_position=True), Copy()
    pred = inferer(images, network, position=torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(pred, -images, atol=5e-4, rtol=0)
    assert network.told[0]["position"].tolist() == [0.0, 0.5, 1.0]


def test_geometry_is_kept():
    affine = torch.tensor([[0.0, -2.0, 0, 7], [1.5, 0, 0, 8], [0, 0, 3, 9], [0, 0, 0, 1]])
    inputs = MetaTensor(volume(), affine=affine, meta={"filename_or_obj": "ct.nii.gz"})
    inferer = make(num_averages=2)
    pred = inferer(inputs, Copy())
    assert isinstance(pred, MetaTensor) and torch.equal(pred.affine, inputs.affine)
    assert pred.meta["filename_or_obj"] == "ct.nii.gz" and pred.shape == inputs.shape
    assert all(type(inferer.result[key]) is torch.Tensor for key in ("pred", "std"))


def test_outside_the_mask():
    inputs, mask, network = volume(2), torch.zeros(2, 1, 6, 5, 4), Copy()
    mask[0, 0, 1:4, 1:4, 1:3] = 1
    inferer = make(num_averages=2)
    pred = inferer(inputs, network, mask=MetaTensor(mask))
    assert {told["count"] for told in network.told} == {2}, "two slices of eight are sampled"
    inside = mask > 0
    torch.testing.assert_close(pred[inside], -inputs[inside], atol=5e-4, rtol=0)
    assert bool((pred[~inside] == -1).all()) and bool((inferer.result["std"][~inside] == 0).all())
    assert torch.equal(inferer.result["mask"], inside)
    assert make()(inputs, network).min() >= -1 and bool((make()(inputs, network, mask=mask * 0) == -1).all())


@pytest.mark.parametrize("shared", [True, False])
def test_same_volume_at_any_batch_size(shared):
    inputs = volume(2, (6, 6, 5))
    options = {"num_averages": 2, "shared_noise": shared, "seed": 3}
    whole = make(slice_batch=16, **options)
    expected = whole(inputs, Noisy())
    for size in (1, 3):
        inferer = make(slice_batch=size, **options)
        torch.testing.assert_close(inferer(inputs, Noisy()), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(inferer.result["std"], whole.result["std"], atol=1e-5, rtol=0)
    alone = make(**options)(inputs[1:], Noisy())
    torch.testing.assert_close(alone, expected[1:], atol=1e-5, rtol=0)
    assert (make(**options | {"seed": 4})(inputs, Noisy()) - expected).abs().max() > 1e-2


def test_noise_is_shared_by_the_slices_of_a_volume():
    inputs = volume(1, (6, 6, 1)).expand(-1, -1, -1, -1, 4)  # all slices alike
    shared, own = (make(shared_noise=each)(inputs, Noisy()) for each in (True, False))
    torch.testing.assert_close(shared, shared[..., :1].expand_as(shared), atol=1e-6, rtol=0)
    assert own.std(-1).min() > 1e-3


def test_averages_are_mean_and_deviation_over_seeds():
    inputs = volume(2, (6, 6, 3))
    single = make()
    samples = torch.stack([single(inputs, Noisy(), seeds=[5 + k, 9 + k]) for k in range(3)])
    assert single.result["std"] is None and single.result["seeds"] == [[7], [11]]
    inferer = make(num_averages=3)
    torch.testing.assert_close(inferer(inputs, Noisy(), seeds=torch.tensor([5, 9])), samples.mean(0), atol=1e-5, rtol=0)
    torch.testing.assert_close(inferer.result["std"], samples.std(0), atol=1e-5, rtol=0)
    assert inferer.result["seeds"] == [[5, 6, 7], [9, 10, 11]]
    default = make(seed=5)(inputs, Noisy())
    torch.testing.assert_close(default[:1], samples[0, :1], atol=1e-5, rtol=0)


def test_what_the_network_is_told():
    inputs = volume(1, (6, 6, 5))
    network = Copy(num_directions=2)
    options = {"pass_position": True, "image_embedder": lambda images: images.mean((2, 3)), "guidance_scale": 2.0}
    make(direction="mr2ct", slice_batch=5, **options)(inputs, network)
    told = network.told[0]
    assert told["count"] == 10, "guidance asks for both halves at once"
    assert told["direction"].tolist() == [1] * 10 and told["direction"].dtype == torch.int64
    assert told["position"].tolist() == [0.0, 0.25, 0.5, 0.75, 1.0] * 2
    torch.testing.assert_close(told["image_embedding"][:5, 0], inputs[0, 0].mean((0, 1)))
    make()(inputs, network := Copy())
    assert sorted(network.told[0]) == ["count"]


def test_guidance_pushes_away_from_no_context():
    inputs = volume()
    scale = 1.5
    pred = make(LatentSpace(), guidance_scale=scale)(inputs, Copy())
    torch.testing.assert_close(pred, (1 + scale * (-inputs - 1)).clamp(-1, 1), atol=5e-4, rtol=0)


def test_settings_are_json_and_tell_volumes_apart():
    described = make(seed=4, num_averages=2, guidance_scale=2.0).describe()
    assert json.loads(json.dumps(described)) == described
    assert described["seed"] == 4 and described["steps"] == 4 and described["sampler"] == "RespacedDDPMScheduler"
    assert described["guidance_scale"] == 2.0 and described["num_averages"] == 2 and "slice_batch" not in described


def test_clipped_latents_are_warned_of():
    clipping = RespacedDDIMScheduler(50)
    with pytest.warns(UserWarning, match="clip_sample=False"):
        make(scheduler=clipping)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(LatentSpace(), clipping)
        make()


def test_errors():
    for name in ("slice_batch", "num_averages"):
        for value in (0, 1.5, True):
            with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1"):
                make(**{name: value})
    with pytest.raises(ValueError, match="direction must be one of .*, got 'both'"):
        make(direction="both")
    with pytest.raises(ValueError, match="slice_axis must be from -3 to 2, got 3"):
        make(slice_axis=3)
    with pytest.raises(ValueError, match="RespacedDDPMScheduler instead"):
        make(scheduler=DDPMScheduler(50))
    with pytest.raises(ValueError, match="seeds must be 2 integers, one for each volume"):
        make()(volume(2), Copy(), seeds=[1])
    with pytest.raises(ValueError, match="inputs must be"):
        make()(torch.zeros(1, 2, 4, 4), Copy())


def test_autoencoder_latents_of_odd_size():
    """With a perfect network what is left is the autoencoder's own error, and the padding is cropped."""
    torch.manual_seed(0)
    attention = {"with_encoder_nonlocal_attn": False, "with_decoder_nonlocal_attn": False}
    levels = {"channels": (8, 8), "attention_levels": (False, False), "num_res_blocks": 1, "norm_num_groups": 4}
    space = LatentSpace(AutoencoderKL(2, latent_channels=3, **levels, **attention))
    inputs = volume(1, (15, 12, 3))
    space.measure_scale([inputs[..., 0]])

    class Same(nn.Module):
        def forward(self, x, timesteps=None, context=None):
            assert x.shape[1:] == (3, 8, 6)
            return context

    pred = make(space, slice_batch=2)(inputs, Same())
    with torch.no_grad():
        expected = torch.stack([space.eval()(inputs[..., level])[0] for level in range(3)], dim=-1).clamp(-1, 1)
    assert pred.shape == inputs.shape and not any(each.requires_grad for each in space.parameters())
    torch.testing.assert_close(pred, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("options", [{}, {"learn_sigma": True, "slice_position": True, "num_directions": 2}])
def test_diffma_in_an_evaluator(options):
    """The real network and latent space, on slices of odd size; a baseline takes the inferer's place."""
    torch.manual_seed(0)
    network = DiffMa.from_preset("tiny/2", in_channels=1, image_size=8, hidden_size=16, num_layers=2, **options)
    for parameter in network.parameters():  # it starts as one that predicts zero
        if parameter.requires_grad and not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    inputs = volume(1, (7, 6, 3))
    mask = torch.ones_like(inputs)
    mask[..., 0] = 0
    batch = {"image": MetaTensor(inputs), "target": inputs, "mask": mask, "seed": torch.tensor([3])}
    scheduler = RespacedDDPMScheduler(
        50, prediction_type="v_prediction", variance_type="learned_range" if options else "fixed_small"
    )
    preds = []
    for slice_batch in (1, 8):
        inferer = make(
            LatentSpace(), scheduler, slice_batch=slice_batch, guidance_scale=1.5, pass_position=bool(options)
        )
        evaluator = SupervisedEvaluator(
            "cpu", [batch], network, inferer=inferer, prepare_batch=TranslationInferenceBatch(), decollate=False
        )
        evaluator.run()
        preds.append(inferer.result["pred"])
        assert inferer.result["seeds"] == [[3]] and torch.equal(evaluator.state.output["pred"].as_tensor(), preds[-1])
    torch.testing.assert_close(*preds, atol=1e-4, rtol=0)
    assert bool((preds[0][..., 0] == -1).all()) and preds[0][..., 1:].std() > 0.01
    evaluator.inferer = baseline = IntensityBaseline()
    evaluator.run()
    assert torch.equal(baseline.result["pred"][..., 1:], inputs[..., 1:])
