"""The deforming model: identity at phase 0, both phase paths, gradients, sizes and precisions."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from monai_mamba_gen.networks.blocks import integrate_velocity, warp_frames
from monai_mamba_gen.networks.nets import DeformableDiffusion

SIZE = (16, 12, 7)
DDM_PARAMETERS = 361_299


class Denoiser(nn.Module):
    """Stands for any network that takes x, timesteps and context."""

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.conv = nn.Conv3d(3, out_channels, kernel_size=3, padding=1)

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor | None = None, context: torch.Tensor | None = None):
        time = 0 if timesteps is None else timesteps.to(x).reshape(-1, 1, 1, 1, 1) / 1000
        return self.conv(torch.cat([x + time, context], dim=1))


def model(code_channels: int = 0, denoiser: bool = True, awake: bool = True, **options) -> DeformableDiffusion:
    """A small model; awake: its last layer gives motions of about a voxel."""
    torch.manual_seed(0)
    net = DeformableDiffusion(
        Denoiser(1 + code_channels) if denoiser else None,
        code_channels=code_channels,
        **{"channels": (8, 8, 8, 8), "final_conv_channels": (4,), **options},
    )
    if awake:
        nn.init.normal_(last_layer(net).weight, std=1.0)
        nn.init.constant_(last_layer(net).bias, 0.3)
    return net


def last_layer(net: DeformableDiffusion) -> nn.Conv3d:
    return [module for module in net.deformation.modules() if isinstance(module, nn.Conv3d)][-1]


def batch(size: tuple[int, ...] = SIZE, count: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 1, *size, generator=generator)
    context = torch.rand(count, 2, *size, generator=generator) * 2 - 1
    return x, torch.arange(count) * 100, context


def test_the_target_can_be_part_of_the_code() -> None:
    net = model(7, target_in_code=True)
    x, timesteps, context = batch()
    prediction, code = net.predict(x, timesteps, context)
    assert code.shape[1] == net.code_size == 9
    assert torch.equal(code[:, :1], prediction) and torch.equal(code[:, -1:], context[:, 1:2])
    output = net(x, timesteps, context, (0.0, 1.0))
    assert torch.equal(output["frames"][:, 0], context[:, 0])
    with pytest.raises(ValueError, match="code_channels must be an odd number with target_in_code, got 4"):
        model(4, target_in_code=True)
    assert model(denoiser=False, target_in_code=True).code_size == 1  # the ES volume once


@pytest.mark.parametrize("size", [(16, 8, 8), (9, 7, 5), (3, 2, 1)], ids=str)
def test_a_coarser_velocity_is_in_voxels_of_the_volume(size: tuple[int, ...]) -> None:
    net = model(velocity_stride=2)
    _, _, context = batch(size)
    nn.init.zeros_(last_layer(net).weight)
    with torch.no_grad():
        last_layer(net).bias.copy_(torch.tensor([0.5, -1.0, 0.25]))
    _, code = net.predict(context[:, 1:], torch.zeros(1), context)
    velocity = net._deform(context[:, :1], code)
    expected = torch.tensor([1.0, -2.0, 0.5]).view(1, 3, 1, 1, 1).expand(2, 3, *size)
    torch.testing.assert_close(velocity, expected)
    with pytest.raises(ValueError, match="velocity_stride must be at least 1, got 0"):
        model(velocity_stride=0)


@pytest.mark.parametrize("path", ["code", "velocity"])
@pytest.mark.parametrize("steps", [0, 5])
def test_back_from_the_end(path: str, steps: int) -> None:
    """At phase 1 the ES volume itself; along one velocity, there and back is the identity."""
    net = model(phase_path=path, integration_steps=steps)
    axes = torch.meshgrid(*(torch.arange(size) / 4 for size in (12, 11, 6)), indexing="ij")
    smooth = torch.stack([axes[0].sin() * axes[1].cos(), (axes[1] + axes[2]).sin()])
    context = torch.stack([smooth, smooth.flip(0)])  # (2, 2, H, W, D)
    source, target = context[:, :1], context[:, 1:]
    _, code = net.predict(target, torch.zeros(1), context)
    code = 0.05 * code
    frames, back = net.animate_back(source, target, code, (0.0, 0.4, 1.0))
    assert torch.equal(frames[:, 2], target[:, 0]) and not back[:, 2].any()
    end = net.velocity(source, code, (1.0,))[:, 0]
    half = net.velocity(source, code, (0.4,))[:, 0]
    assert torch.allclose(back[:, 1], integrate_velocity(half - end, steps), atol=1e-6)
    if path == "velocity" and steps:
        there, _ = net.animate(source, target, code, (1.0,))
        again, _ = net.animate_back(source, there[:, :1], code, (0.0,))
        inside = (slice(None), slice(None), slice(3, -3), slice(3, -3), slice(2, -2))
        once, twice = ((m - source).abs()[inside].mean() for m in (there[:, :1], again[:, :1]))
        assert twice < 0.5 * once


ALL = [(0, True, "code"), (8, True, "code"), (8, True, "velocity"), (0, False, "velocity")]


def test_as_many_parameters_as_ddm() -> None:
    net = DeformableDiffusion(None)
    count = sum(parameter.numel() for parameter in net.parameters())
    assert count == 364_691  # as the class says
    assert abs(count / DDM_PARAMETERS - 1) < 0.02


@pytest.mark.parametrize(("code_channels", "denoiser", "path"), ALL)
@pytest.mark.parametrize("steps", [0, 7])
def test_phase_zero_is_the_volume_bit_for_bit(code_channels: int, denoiser: bool, path: str, steps: int) -> None:
    net = model(code_channels, denoiser, phase_path=path, integration_steps=steps)
    x, timesteps, context = batch()
    output = net(x, timesteps, context, torch.tensor([[0.0, 0.4, 1.0], [1.0, 0.0, 0.0]]))
    assert torch.equal(output["frames"][0, 0], context[0, 0])
    assert torch.equal(output["frames"][1, 1], context[1, 0]) and torch.equal(output["frames"][1, 2], context[1, 0])
    assert not output["displacement"][0, 0].any() and not output["velocity"][1, 2].any()
    assert output["displacement"][0, 2].abs().mean() > 0.01
    assert not torch.equal(output["frames"][0, 1], output["frames"][0, 2])


@pytest.mark.parametrize(("code_channels", "denoiser", "path"), ALL)
def test_parts_make_the_whole(code_channels: int, denoiser: bool, path: str) -> None:
    net = model(code_channels, denoiser, phase_path=path)
    x, timesteps, context = batch()
    phases = torch.tensor([0.0, 0.3, 1.0])
    with torch.no_grad():
        output = net(x, timesteps, context, phases)
        prediction, code = net.predict(x, timesteps, context)
        frames, displacement = net.animate(context[:, :1], context[:, 1:], code, phases)
    assert output["code"].shape == (2, 1 + code_channels, *SIZE) and torch.equal(output["code"], code)
    if denoiser:
        assert torch.equal(prediction, code[:, :1]) and torch.equal(output["prediction"], prediction)
    else:
        assert prediction is None and "prediction" not in output and torch.equal(code, context[:, 1:])
    torch.testing.assert_close(frames, output["frames"])
    torch.testing.assert_close(displacement, output["displacement"])
    torch.testing.assert_close(net.displacement(context[:, :1], code, phases).detach(), displacement)
    expected = integrate_velocity(output["velocity"][:, 2])
    torch.testing.assert_close(displacement[:, 2], expected)
    torch.testing.assert_close(frames[:, 2:], warp_frames(context[:, :1], expected[:, None]))
    labels = torch.randint(0, 4, (2, 1, *SIZE))
    assert set(net.warp(labels, displacement, mode="nearest").unique().tolist()) <= {0, 1, 2, 3}


def test_velocity_path_is_a_straight_line_and_code_path_is_not() -> None:
    x, timesteps, context = batch()
    for path, straight in (("velocity", True), ("code", False)):
        with torch.no_grad():
            velocity = model(2, phase_path=path)(x, timesteps, context, (0.5, 1.0))["velocity"]
        assert torch.allclose(velocity[:, 0], velocity[:, 1] / 2, atol=1e-6) == straight


def test_without_integration_the_velocity_is_the_displacement() -> None:
    x, timesteps, context = batch()
    output = model(integration_steps=0)(x, timesteps, context)
    assert torch.equal(output["velocity"], output["displacement"])
    assert output["frames"].shape == (2, 1, *SIZE) and torch.equal(output["phases"], torch.ones(2, 1))


def test_training_starts_at_the_identity() -> None:
    for denoiser in (True, False):
        x, timesteps, context = batch()
        output = model(denoiser=denoiser, awake=False)(x, timesteps, context)
        assert 0 < output["displacement"].abs().max() < 1e-3


@pytest.mark.parametrize(("code_channels", "denoiser", "path"), ALL)
def test_every_parameter_gets_a_gradient(code_channels: int, denoiser: bool, path: str) -> None:
    net = model(code_channels, denoiser, phase_path=path, awake=False)
    x, timesteps, context = batch()
    output = net(x, timesteps, context)
    (output["frames"][:, -1:] - context[:, 1:]).square().mean().backward()  # the frames alone reach everything
    assert all(parameter.grad is not None for parameter in net.parameters())
    assert last_layer(net).weight.grad.abs().sum() > 0
    if denoiser:
        assert (net.denoiser.conv.weight.grad.abs().sum(dim=(1, 2, 3, 4)) > 0).all()  # every channel of the code


@pytest.mark.parametrize("size", [(5, 9, 3), (1, 1, 1), (17, 16, 2)])
def test_any_size(size: tuple[int, ...]) -> None:
    x, timesteps, context = batch(size, 1)
    with torch.no_grad():
        output = DeformableDiffusion(Denoiser(1))(x, timesteps, context, (0.0, 1.0))
    assert output["frames"].shape == (1, 2, *size) and output["displacement"].shape == (1, 2, 3, *size)
    assert torch.equal(output["frames"][:, :1], context[:, :1])


def test_precisions() -> None:
    net, (x, timesteps, context) = model(2), batch()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        output = net(x, timesteps, context, (0.0, 1.0))
        frames, _ = net.animate(context[:, :1], None, output["code"], (0.0, 1.0))
    assert {value.dtype for value in output.values()} == {torch.float32}
    assert torch.equal(output["frames"][:, 0], context[:, 0])
    assert torch.equal(frames, output["frames"])
    with torch.no_grad():
        reference = net(x, timesteps, context, (0.0, 1.0))
        double = net.double()(x.double(), timesteps, context.double(), (0.0, 1.0))
    assert (output["velocity"] - reference["velocity"]).abs().max() < 0.1 * reference["velocity"].abs().max()
    assert {value.dtype for value in double.values()} == {torch.float64}
    torch.testing.assert_close(double["frames"].float(), reference["frames"], atol=1e-3, rtol=0)


def test_copies_and_state_dicts() -> None:
    net, (x, timesteps, context) = model(2), batch()
    with torch.no_grad():
        expected = net(x, timesteps, context)["frames"]
        other = model(2)
        for parameter in other.parameters():
            parameter.zero_()
        other.load_state_dict(net.state_dict())
        assert torch.equal(other(x, timesteps, context)["frames"], expected)
        assert torch.equal(copy.deepcopy(net)(x, timesteps, context)["frames"], expected)
    assert not any("grid" in key for key in net.state_dict())


def test_samples_of_a_batch_do_not_meet() -> None:
    net, (x, timesteps, context) = model(2), batch()
    with torch.no_grad():
        both = net(x, timesteps, context, (0.5, 1.0))["frames"]
        alone = net(x[1:], timesteps[1:], context[1:], (0.5, 1.0))["frames"]
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=1e-5)


def test_wrong_arguments() -> None:
    x, timesteps, context = batch()
    net = model()
    for wrong in (None, context[:, :1]):
        with pytest.raises(ValueError, match=r"context must be \(N, 2, H, W, D\)"):
            net(x, timesteps, wrong)
    with pytest.raises(ValueError, match=r"phases must be"):
        net(x, timesteps, context, torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"code must be \(2, 1, 16, 12, 7\), got \(2, 2, 16, 12, 7\)"):
        net.displacement(context[:, :1], context, [1.0])
    with pytest.raises(ValueError, match=r"phase_path must be one of \['code', 'velocity'\] or None, got 'time'"):
        model(phase_path="time")
    with pytest.raises(ValueError, match="code_channels must be an even number, 0 or more, got 3"):
        model(3)
    with pytest.raises(ValueError, match="code_channels must be 0 without a denoiser, got 2"):
        DeformableDiffusion(None, code_channels=2)
    with pytest.raises(ValueError, match=r"1 \+ code_channels = 3 out_channels, got 1"):
        DeformableDiffusion(Denoiser(1), code_channels=2)
    with pytest.raises(ValueError, match="integration_steps must not be negative, got -1"):
        model(integration_steps=-1)
    with pytest.raises(ValueError, match=r"channels must come in pairs, got \(8, 8, 8\)"):
        model(channels=(8, 8, 8))
