"""DDM's denoiser as a baseline."""

from __future__ import annotations

import pytest
import torch

from monai_mamba_gen.networks.nets import DDMUNet

DDM_PARAMETERS = 715_665


def small(**options) -> DDMUNet:
    torch.manual_seed(0)
    return DDMUNet(**{"channels": (4, 8), **options})


def test_as_many_parameters_as_ddm() -> None:
    count = sum(parameter.numel() for parameter in DDMUNet().parameters())
    assert count == 724_425  # as the class says
    assert abs(count / DDM_PARAMETERS - 1) < 0.02


@pytest.mark.parametrize("size", [(16, 16, 8), (9, 7, 5), (1, 1, 1), (3, 16, 2)])
def test_any_size(size: tuple[int, ...]) -> None:
    x = torch.randn(1, 1, *size)
    output = DDMUNet(out_channels=3)(x, timesteps=torch.tensor([7]), context=torch.zeros(1, 2, *size))
    assert output.shape == (1, 3, *size)
    assert torch.isfinite(output).all()


def test_no_context_is_minus_one_and_no_time_is_zero() -> None:
    net, x = small(), torch.randn(2, 1, 8, 8, 4)
    with torch.no_grad():
        expected = net(x, torch.zeros(2), torch.full((2, 2, 8, 8, 4), -1.0))
        assert torch.equal(net(x), expected)
        assert torch.equal(net(x, timesteps=torch.tensor([0])), expected)


def test_input_time_and_each_frame_matter() -> None:
    net = small()
    x, context = torch.randn(1, 1, 8, 8, 4), torch.randn(1, 2, 8, 8, 4)
    x.requires_grad_(), context.requires_grad_()
    output = net(x, torch.tensor([3.0]), context)
    output.square().mean().backward()
    assert x.grad.abs().sum() > 0
    assert (context.grad.abs().sum(dim=(0, 2, 3, 4)) > 0).all()
    assert all(parameter.grad is not None for parameter in net.parameters())
    assert not torch.allclose(output, net(x, torch.tensor([900.0]), context))


def test_output_starts_at_the_scale_of_noise() -> None:
    torch.manual_seed(0)
    output = DDMUNet()(torch.randn(1, 1, 16, 16, 8))
    assert 0.1 < output.std() < 3


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype) -> None:
    net, x = small(), torch.randn(1, 1, 8, 8, 4)
    if dtype == torch.float64:
        assert net.double()(x.double(), torch.tensor([5])).dtype == dtype
    else:
        with torch.autocast("cpu", dtype):
            assert net(x, torch.tensor([5])).shape == x.shape


def test_wrong_arguments() -> None:
    net, x = small(), torch.zeros(2, 1, 8, 8, 4)
    with pytest.raises(ValueError, match=r"x must be \(N, 1, H, W, D\), got \(2, 1, 8, 8\)"):
        net(x[..., 0])
    with pytest.raises(ValueError, match=r"context must be \(2, 2, 8, 8, 4\), got \(2, 1, 8, 8, 4\)"):
        net(x, context=x)
    with pytest.raises(ValueError, match=r"timesteps must be \(2,\) or \(1,\), got \(3,\)"):
        net(x, timesteps=torch.zeros(3))
    with pytest.raises(ValueError, match="spatial_dims must be 3, got 2"):
        DDMUNet(spatial_dims=2)
    with pytest.raises(ValueError, match=r"channels must be multiples of 4, got \(6, 8\)"):
        DDMUNet(channels=(6, 8))
    with pytest.raises(ValueError, match="out_channels must be positive, got 0"):
        DDMUNet(out_channels=0)
