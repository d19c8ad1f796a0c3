"""MSTG: any size and number of frames, context, time, gradients, precision, MONAI's diffusion classes, memory."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from monai.inferers import DiffusionInferer
from monai.networks.schedulers import DDIMScheduler

from monai_mamba_gen.networks.blocks import MSTBlock
from monai_mamba_gen.networks.nets import MSTG

SMALL = {"channels": (4, 8, 8), "d_state": 2, "expand": 1}  # stride 4


def make(**arguments) -> MSTG:
    torch.manual_seed(0)
    return MSTG(**{**SMALL, **arguments})


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


SIZES = [(8, 8, 4), (16, 12, 8), (9, 7, 5), (1, 1, 1), (3, 10, 1), (5, 4, 2)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("frames", [None, 1, 2, 5])
def test_any_size_and_any_number_of_frames(size, frames):
    shape = (2, 1, *size) if frames is None else (2, 1, frames, *size)
    y = make()(noise(*shape), torch.tensor([3, 900]), noise(2, 2, *size))
    assert y.shape == shape
    assert y.isfinite().all()


def test_one_frame_with_and_without_a_frame_axis_are_the_same():
    network, x, context = make(), noise(2, 1, 6, 5, 4), noise(2, 2, 6, 5, 4)
    plain, framed = network(x, 7, context), network(x[:, :, None], 7, context)
    torch.testing.assert_close(framed[:, :, 0], plain)


@pytest.mark.parametrize("mamba_levels", [(), (2,), (1, 2), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("context_frames", [0, 1, 2, 3])
def test_every_parameter_takes_part(mamba_levels, context_frames):
    network = make(mamba_levels=mamba_levels, context_frames=context_frames)
    blocks = [isinstance(level[0], MSTBlock) for level in network.encoder]
    assert blocks == [index in mamba_levels for index in range(3)]
    context = noise(1, context_frames, 5, 6, 4) if context_frames else None
    network(noise(1, 1, 3, 5, 6, 4), torch.tensor([10]), context).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("frames", [1, 3])
def test_no_context_means_frames_of_minus_one(frames):
    network, x = make(), noise(1, 1, frames, 6, 5, 4)
    torch.testing.assert_close(network(x), network(x, context=torch.full((1, 2, 6, 5, 4), -1.0)))
    assert not torch.allclose(network(x), network(x, context=noise(1, 2, 6, 5, 4)))


def test_forms_of_the_context_agree():
    network = make(in_channels=2, out_channels=2)
    x, context = noise(1, 2, 4, 4, 4), noise(1, 2, 2, 4, 4, 4)  # (N, C, M, *S)
    flat = context.transpose(1, 2).flatten(1, 2)  # (N, M C, *S)
    torch.testing.assert_close(network(x, context=context), network(x, context=flat))


def test_both_given_frames_and_all_noisy_frames_reach_every_output():
    network = make()
    x, context = noise(1, 1, 3, 8, 8, 4).requires_grad_(), noise(1, 2, 8, 8, 4).requires_grad_()
    network(x, torch.tensor([5]), context)[:, :, 1].square().sum().backward()
    assert bool((x.grad.abs().amax(dim=(0, 1, 3, 4, 5)) > 0).all())
    assert bool((context.grad.abs().amax(dim=(0, 2, 3, 4)) > 0).all())


def test_order_of_the_given_frames_matters():
    network, x, context = make(), noise(1, 1, 8, 8, 4), noise(1, 2, 8, 8, 4)
    assert not torch.allclose(network(x, context=context), network(x, context=context.flip(1)))


def test_forms_of_the_time_agree():
    network, x = make(), noise(3, 1, 4, 4, 4)
    expected = network(x, timesteps=torch.tensor([7, 7, 7]))
    for timesteps in (torch.tensor([7.0]), torch.tensor([7]), torch.tensor(7), torch.tensor([7.0] * 3), 7):
        torch.testing.assert_close(network(x, timesteps=timesteps), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(network(x, timesteps=torch.tensor([8, 8, 8])), expected)
    torch.testing.assert_close(network(x), network(x, timesteps=torch.zeros(3)))


def test_samples_do_not_meet():
    network, x, context = make(), noise(3, 1, 7, 5, 4), noise(3, 2, 7, 5, 4)
    whole = network(x, torch.tensor([1, 2, 3]), context)
    torch.testing.assert_close(network(x[1:2], torch.tensor([2]), context[1:2]), whole[1:2], rtol=1e-4, atol=1e-5)


def test_padding_repeats_the_border():
    network, x, context = make(), noise(1, 1, 4, 6, 4), noise(1, 2, 4, 6, 4)
    longer = [torch.cat([m, m[:, :, :, -1:].expand(-1, -1, -1, 2, -1)], dim=3) for m in (x, context)]
    torch.testing.assert_close(network(x, 3, context), network(longer[0], 3, longer[1])[:, :, :, :6])


@pytest.mark.parametrize("mamba_levels", [(), (1, 2), (0, 1, 2)], ids=str)
def test_frame_by_frame_without_gradients_is_all_at_once_with_them(mamba_levels):
    network, x, context = make(mamba_levels=mamba_levels), noise(2, 1, 3, 7, 5, 4), noise(2, 2, 7, 5, 4)
    expected = network(x, torch.tensor([3, 40]), context)
    with torch.no_grad():
        torch.testing.assert_close(network(x, torch.tensor([3, 40]), context), expected.detach())


def test_two_spatial_dimensions():
    network = make(spatial_dims=2)
    assert network(noise(1, 1, 9, 6), context=noise(1, 2, 9, 6)).shape == (1, 1, 9, 6)
    assert network(noise(1, 1, 4, 9, 6), context=noise(1, 2, 9, 6)).shape == (1, 1, 4, 9, 6)


def test_autocast_and_double():
    network, x, context = make(), noise(1, 1, 8, 8, 4), noise(1, 2, 8, 8, 4)
    expected = network(x, 9, context)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(x, 9, context).float()
    assert (rounded - expected).abs().max() < 0.05 * expected.abs().max()
    exact = copy.deepcopy(network).double()(x.double(), 9, context.double())
    torch.testing.assert_close(exact.float(), expected, rtol=1e-4, atol=1e-5)


def test_gradients_of_the_whole_by_finite_differences():
    network = make(channels=(2, 2), mamba_levels=(1,)).double()
    x, context = noise(1, 1, 2, 2, 2).double(), noise(1, 2, 2, 2, 2).double()
    x, context = x.requires_grad_(), context.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: network(a, 3, b), (x, context), rtol=1e-3, atol=1e-6)


def test_state_dict_round_trip_and_deepcopy():
    network, x = make(), noise(1, 1, 5, 4, 4)
    stream = io.BytesIO()
    torch.save(network.state_dict(), stream)
    stream.seek(0)
    other = MSTG(**SMALL)
    other.load_state_dict(torch.load(stream, weights_only=True))
    assert torch.equal(other(x), network(x))
    assert torch.equal(copy.deepcopy(network)(x), network(x))


@pytest.mark.parametrize("frames", [(), (3,)], ids=["one", "three"])
def test_monais_diffusion_inferer_trains_and_samples(frames):
    network, context = make(), noise(2, 2, 8, 6, 4)
    scheduler = DDIMScheduler(num_train_timesteps=20)
    inferer = DiffusionInferer(scheduler)
    images, draw = noise(2, 1, *frames, 8, 6, 4), noise(2, 1, *frames, 8, 6, 4, seed=2)
    prediction = inferer(images, network, draw, torch.tensor([3, 15]), condition=context)
    assert prediction.shape == images.shape
    scheduler.set_timesteps(4)
    with torch.no_grad():
        sample = inferer.sample(draw, network, scheduler, conditioning=context, verbose=False)
    assert sample.shape == images.shape
    assert sample.isfinite().all()


@pytest.mark.parametrize("num_res_blocks", [2, (0, 1, 1), (0, 2, 1)], ids=str)
@pytest.mark.parametrize("mamba_levels", [(), (1, 2), (0, 1, 2)], ids=str)
def test_blocks_of_each_level(num_res_blocks, mamba_levels):
    network = make(num_res_blocks=num_res_blocks, mamba_levels=mamba_levels)
    counts = (2, 2, 2) if num_res_blocks == 2 else num_res_blocks
    assert tuple(len(level) for level in network.encoder) == counts
    assert tuple(len(level) for level in network.decoder) == counts[:2]
    y = network(noise(1, 1, 2, 5, 6, 4), 10, noise(1, 2, 5, 6, 4))
    assert y.shape == (1, 1, 2, 5, 6, 4)
    y.square().mean().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_learns_to_use_what_it_is_given():
    """x = 0.6 ES + 0.8 noise: who does not look at the given frame cannot get below 0.36, who does need not err."""
    network = make(channels=(8, 8))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for step in range(150):
        context, draw = noise(2, 2, 8, 8, 4, seed=2 * step), noise(2, 1, 8, 8, 4, seed=2 * step + 1)
        loss = (network(0.6 * context[:, 1:] + 0.8 * draw, 10, context) - draw).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < 0.25


def test_presets():
    for name in MSTG.presets:
        network = MSTG.from_preset(name, out_channels=3)
        assert network(noise(1, 1, 8, 8, 8)).shape == (1, 3, 8, 8, 8)
    with pytest.raises(ValueError, match=r"preset must be one of .*, got 'huge'"):
        MSTG.from_preset("huge")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 4}, "spatial_dims must be 2 or 3, got 4"),
        ({"channels": ()}, "channels must be one or more"),
        ({"channels": (8, 0)}, "channels must be one or more"),
        ({"num_res_blocks": 0}, r"num_res_blocks must be 3 numbers of at least 1, .* got \(0, 0, 0\)"),
        ({"num_res_blocks": (1, 1)}, "num_res_blocks must be 3 numbers"),
        ({"num_res_blocks": (-1, 1, 1)}, "num_res_blocks must be 3 numbers"),
        ({"context_frames": -1}, "context_frames must be at least 0, got -1"),
        ({"mamba_levels": (0, 2)}, r"mamba_levels must be the last ones of 0..2, got \(0, 2\)"),
        ({"paths": ("up",)}, "paths must be"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(1, 2, 4, 4, 4),), "x must be"),
        ((torch.zeros(1, 1, 4, 4),), "x must be"),
        ((torch.zeros(2, 1, 4, 4, 4), torch.zeros(3)), r"timesteps must be \(2,\) or \(1,\), got \(3,\)"),
        ((torch.zeros(1, 1, 4, 4, 4), None, torch.zeros(1, 1, 4, 4, 4)), "context must be"),
        ((torch.zeros(1, 1, 4, 4, 4), None, torch.zeros(1, 2, 4, 4, 5)), "context must be"),
    ],
)
def test_wrong_inputs_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make()(*arguments)
