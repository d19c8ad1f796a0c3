"""Convolutional blocks: shapes, time, residual connection, changes of resolution."""

from __future__ import annotations

import pytest
import torch

from monai_mamba_gen.networks.blocks import Downsample2d, TimeConvBlock, TimeResBlock, Upsample2d, group_norm


@pytest.mark.parametrize(
    ("channels", "groups"),
    [(512, 32), (128, 32), (96, 24), (64, 16), (48, 12), (32, 8), (8, 2), (7, 1), (2, 1), (1, 1)],
)
def test_groups_divide_the_channels(channels, groups):
    assert group_norm(channels).num_groups == groups


@pytest.mark.parametrize("channels", [2, 8, 16, 32])
def test_groups_hold_more_than_one_channel(channels):
    """Groups of one channel cannot normalise a single cell, and make channels blind to their mean."""
    norm, x = group_norm(channels), torch.randn(1, channels, 1, 1)
    assert norm(x).abs().max() > 0
    brighter = torch.randn(1, channels, 4, 4)
    assert not torch.allclose(norm(brighter + torch.arange(channels)[:, None, None]), norm(brighter))


@pytest.mark.parametrize("block", [TimeConvBlock, TimeResBlock])
def test_shape_and_dependence_on_time(block):
    module, x, t = block(4, 6, 8), torch.randn(2, 4, 5, 7), torch.randn(2, 8)
    assert module(x, t).shape == (2, 6, 5, 7)
    assert not torch.allclose(module(x, t), module(x, t + 1))


@pytest.mark.parametrize("out_channels", [4, 6])
def test_residual_connection(out_channels):
    module, x, t = TimeResBlock(4, out_channels, 8), torch.randn(2, 4, 5, 7), torch.randn(2, 8)
    with torch.no_grad():
        module.time_conv.conv.weight.zero_()
        module.time_conv.conv.bias.zero_()
    torch.testing.assert_close(module(x, t), module.skip(x))
    assert torch.equal(module.skip(x), x) == (out_channels == 4)


def test_dropout_acts_in_training_only():
    module, x, t = TimeConvBlock(4, 4, 8, dropout=0.5), torch.randn(2, 4, 5, 7), torch.randn(2, 8)
    assert not torch.equal(module(x, t), module(x, t))
    module.eval()
    assert torch.equal(module(x, t), module(x, t))


def test_down_and_up_change_the_resolution_by_two():
    x = torch.randn(1, 3, 6, 10)
    assert Downsample2d(3, 5)(x).shape == (1, 5, 3, 5)
    assert Upsample2d(3, 5)(x).shape == (1, 5, 12, 20)
