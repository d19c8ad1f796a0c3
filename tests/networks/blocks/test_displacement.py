"""Integration and warping: analytic cases, exactness at rest, and what MONAI's Warp keeps."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from monai.networks.blocks import Warp

from monai_mamba_gen.networks.blocks import StatelessWarp, expand_phases, integrate_velocity, pad_to_multiple
from monai_mamba_gen.networks.blocks import warp_frames as warp

SIZE = (9, 8, 7)


def smooth_field(amplitude: float, size: tuple[int, ...] = (16, 16, 12), seed: int = 0) -> torch.Tensor:
    """(1, 3, H, W, D), zero at the border."""
    axes = torch.meshgrid(*[torch.linspace(0, torch.pi, n) for n in size], indexing="ij")
    bump = axes[0].sin() * axes[1].sin() * axes[2].sin()
    wave = torch.stack([(axes[1] * 2).cos(), (axes[2] + 1).sin(), (axes[0] * 1.5).cos()])
    return amplitude * (bump * wave)[None]


@pytest.fixture
def volume() -> torch.Tensor:
    return torch.rand(2, 1, *SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_voxel_of_displacement_shifts_by_one_voxel(volume: torch.Tensor, axis: int) -> None:
    displacement = torch.zeros(2, 1, 3, *SIZE)
    displacement[:, :, axis] = 1.0
    frame = warp(volume, displacement)  # frame(x) = volume(x + 1)
    length = SIZE[axis]
    shifted = volume.index_select(axis + 2, torch.tensor([*range(1, length), length - 1]))  # border repeated
    torch.testing.assert_close(frame, shifted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("gradients", [False, True])
def test_zero_displacement_keeps_every_bit(gradients: bool) -> None:
    volume = torch.randn(1, 1, 33, 17, 11, generator=torch.Generator().manual_seed(1)) * 1e3
    volume[0, 0, 0, 0, 0] = 1e-30
    displacement = torch.zeros(1, 2, 3, 33, 17, 11)
    displacement[0, 1, :, 5:] = 0.3
    frames = warp(volume, displacement.requires_grad_(gradients))
    assert torch.equal(frames[:, 0], volume[:, 0])
    assert torch.equal(frames[:, 1, :5], volume[:, 0, :5])
    assert not torch.equal(frames[:, 1, 5:], volume[:, 0, 5:])


def test_gradients_pass_where_nothing_moves() -> None:
    ramp = torch.arange(8.0).reshape(1, 1, 8, 1, 1).expand(1, 1, 8, 6, 4).contiguous()
    displacement = torch.zeros(1, 1, 3, 8, 6, 4, requires_grad=True)
    volume = ramp.clone().requires_grad_()
    warp(volume, displacement).sum().backward()
    torch.testing.assert_close(displacement.grad[0, 0, 0, 1:-1], torch.ones(6, 6, 4))  # the slope of the ramp
    assert displacement.grad[0, 0, 1:].abs().max() < 1e-5
    torch.testing.assert_close(volume.grad, torch.ones_like(ramp), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
def test_nearest_keeps_label_values_and_type(dtype: torch.dtype) -> None:
    labels = torch.randint(0, 4, (1, 1, 16, 16, 12), generator=torch.Generator().manual_seed(2)).to(dtype)
    frames = warp(labels, smooth_field(1.4)[:, None].expand(1, 3, 3, 16, 16, 12), mode="nearest")
    assert frames.dtype == dtype and frames.shape == (1, 3, 16, 16, 12)
    assert set(frames.unique().tolist()) <= {0, 1, 2, 3}
    assert not torch.equal(frames[:, :1], labels)


def test_agrees_with_monai_warp() -> None:
    volume, field = torch.rand(1, 1, 16, 16, 12), smooth_field(2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = Warp(padding_mode="border")(volume, field)
    torch.testing.assert_close(warp(volume, field[:, None]), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_the_traced_warp_is_the_same_for_every_size_and_writes_nothing_in_place(mode: str) -> None:
    layer = StatelessWarp(mode)
    traced = torch.jit.trace(layer, (torch.rand(1, 2, 4, 5, 6), torch.zeros(1, 3, 4, 5, 6)))
    for batch, *size in ((1, 4, 5, 6), (2, 7, 3, 4), (1, 6, 5, 1)):
        volume, field = torch.rand(batch, 2, *size), 2 * torch.randn(batch, 3, *size)
        assert torch.equal(traced(volume, field), layer(volume, field)), size
    assert not [node.kind() for node in traced.inlined_graph.nodes() if node.kind().endswith(("_put_", "copy_"))]


def test_monais_warp_still_writes_in_place() -> None:
    """When this fails, MONAI's own warp can be exported without scattering: drop `StatelessWarp.forward`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Warp(), (torch.rand(1, 1, 4, 5, 6), torch.zeros(1, 3, 4, 5, 6)), check_trace=False)
    assert [node for node in traced.inlined_graph.nodes() if node.kind() == "aten::copy_"]


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_constant_velocity_is_that_displacement(steps: int) -> None:
    velocity = torch.tensor([0.8, -2.5, 0.0]).reshape(1, 3, 1, 1, 1).expand(2, 3, *SIZE)
    torch.testing.assert_close(integrate_velocity(velocity, steps), velocity, atol=1e-6, rtol=0)


def test_forth_and_back_is_near_the_identity() -> None:
    velocity = smooth_field(1.0)
    forth, back = integrate_velocity(velocity), integrate_velocity(-velocity)
    there = StatelessWarp()(forth, back)  # u(x + w(x))
    assert forth.abs().max() > 0.7
    assert (there + back).abs().max() < 0.05
    assert (velocity - integrate_velocity(velocity)).abs().max() > 0.05  # a displacement is not its velocity


@pytest.mark.parametrize("size", [(1, 6, 5), (2, 1, 1), (3, 3, 3)])
def test_flat_volumes(size: tuple[int, ...]) -> None:
    volume = torch.rand(1, 1, *size)
    displacement = integrate_velocity(torch.randn(1, 3, *size))[:, None]
    assert torch.isfinite(warp(volume, displacement)).all()
    assert torch.equal(warp(volume, displacement * 0), volume)


def test_float32_under_autocast_and_float64_kept() -> None:
    volume, velocity = torch.rand(1, 1, 16, 16, 12), smooth_field(1.0)
    expected = warp(volume, integrate_velocity(velocity)[:, None])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(warp(volume, integrate_velocity(velocity)[:, None]), expected)
    assert warp(volume.bfloat16(), velocity.bfloat16()[:, None]).dtype == torch.float32
    double = warp(volume.double(), integrate_velocity(velocity.double())[:, None])
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), expected, atol=1e-5, rtol=0)


def test_reference_grid_is_not_kept() -> None:
    layer, volume, field = StatelessWarp(), torch.rand(1, 1, *SIZE), torch.zeros(1, 3, *SIZE)
    layer(volume, field)
    assert layer(volume.double(), field.double()).dtype == torch.float64
    assert layer.ref_grid is None and copy.deepcopy(layer).ref_grid is None
    meta = torch.zeros(1, 3, *SIZE, device="meta")
    assert layer.get_reference_grid(meta).device.type == "meta"


def test_only_the_expected_warning_is_silenced() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        StatelessWarp()


def test_wrong_arguments() -> None:
    volume = torch.zeros(1, 1, *SIZE)
    with pytest.raises(ValueError, match=r"displacement must be \(1, 2, 3, 9, 8, 7\), got"):
        warp(volume, torch.zeros(1, 2, 2, *SIZE))
    with pytest.raises(ValueError, match="displacement must be"):
        warp(volume, torch.zeros(1, 3, *SIZE))
    with pytest.raises(ValueError, match=r"volume must be \(N, 1"):
        warp(torch.zeros(1, 2, *SIZE), torch.zeros(1, 1, 3, *SIZE))
    with pytest.raises(ValueError, match=r"mode must be one of \['bilinear', 'nearest'\], got 'cubic'"):
        warp(volume, torch.zeros(1, 1, 3, *SIZE), mode="cubic")
    with pytest.raises(ValueError, match="steps must not be negative, got -1"):
        integrate_velocity(torch.zeros(1, 3, *SIZE), -1)


def test_padding_repeats_the_last_voxel() -> None:
    x = torch.rand(2, 3, 5, 8, 1)
    padded = pad_to_multiple(x, 4)
    assert padded.shape == (2, 3, 8, 8, 4)
    assert torch.equal(padded[..., :5, :, :1], x)
    assert torch.equal(padded[..., 5:, :, :], padded[..., 4:5, :, :].expand(2, 3, 3, 8, 4))
    assert pad_to_multiple(x, (5, 8, 1)) is x


def test_phases() -> None:
    like = torch.zeros(2, 1, 4, 4, 4)
    assert torch.equal(expand_phases(0.5, like), torch.full((2, 1), 0.5))
    assert torch.equal(expand_phases([0, 1], like), torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    assert expand_phases(torch.rand(2, 3), like.double()).dtype == torch.float64
    for wrong in (torch.zeros(3, 2), torch.zeros(0), torch.zeros(2, 1, 1)):
        with pytest.raises(ValueError, match=r"phases must be \(P,\) or \(2, P\)"):
            expand_phases(wrong, like)
