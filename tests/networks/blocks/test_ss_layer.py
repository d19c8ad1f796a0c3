"""SSLayer: a ResNet block, a multi-level state space block, and the fusion of the two."""

from __future__ import annotations

import pytest
import torch

from monai_mamba_gen.networks.blocks import SSLayer


def make(**arguments) -> tuple[SSLayer, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return SSLayer(4, 8, 16, **arguments), torch.randn(2, 4, 5, 7), torch.randn(2, 16)


@pytest.mark.parametrize("block_fusion", ["cascade", "concat"])
def test_mean_fusion(block_fusion):
    layer, x, t = make(block_fusion=block_fusion)
    r = layer.res_block(x, t)
    torch.testing.assert_close(layer(x, t), (r + layer.mss_block(r, t)) / 2)


@pytest.mark.parametrize("block_fusion", ["cascade", "concat"])
def test_concat_fusion(block_fusion):
    layer, x, t = make(fusion="concat", block_fusion=block_fusion)
    r = layer.res_block(x, t)
    torch.testing.assert_close(layer(x, t), layer.mix(torch.cat([r, layer.mss_block(r, t)], dim=1)))


@pytest.mark.parametrize("fusion", ["mean", "concat"])
def test_shape_and_gradients(fusion):
    layer, x, t = make(fusion=fusion)
    y = layer(x, t)
    assert y.shape == (2, 8, 5, 7)
    y.square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in layer.parameters())


@pytest.mark.parametrize("fusion", ["mean", "concat"])
def test_shuffle_reaches_the_scan(fusion):
    layer, x, t = make(fusion=fusion)
    assert layer.draw_order(5, 7) is None
    plain = layer(x, t)
    assert torch.equal(layer(x, t, torch.arange(35)), plain)
    assert not torch.allclose(layer(x, t, torch.randperm(35)), plain)


def test_draws_the_order_of_its_scan():
    layer, x, t = make(sequence_regeneration="always")
    torch.manual_seed(1)
    drawn = layer(x, t)
    torch.manual_seed(1)
    assert torch.equal(layer(x, t, layer.draw_order(5, 7)), drawn)


def test_signal_does_not_double():
    """The mean keeps the scale of a layer's output near its input's, which a sum of r and m would not."""
    torch.manual_seed(0)
    x, t = torch.randn(4, 16, 8, 8), torch.randn(4, 16)
    for _ in range(6):
        x = SSLayer(16, 16, 16)(x, t)
    assert 0.5 < x.std() < 6


def test_unknown_fusion():
    with pytest.raises(ValueError, match=r"fusion must be one of \('mean', 'concat'\), got 'sum'"):
        SSLayer(4, 4, 16, fusion="sum")
    with pytest.raises(ValueError, match=r"fusion must be one of \('cascade', 'concat'\), got 'sum'"):
        SSLayer(4, 4, 16, block_fusion="sum")
