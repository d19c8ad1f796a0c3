"""The four paths of MSSBlock, with linear stand-ins for its two modules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_mamba_gen.networks.blocks import MSSBlock

CHANNELS = 6


class LinearCSM(nn.Module):
    """A linear map over channels in CSM's place; remembers the shuffle it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False)

    def forward(self, x, shuffle=None):
        self.shuffle = shuffle
        return self.map(x)


class LinearCNN(nn.Module):
    """A linear map of the image, times a number that the embedding gives."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)

    def forward(self, x, embedding):
        return embedding.sum() * self.map(x)


def linear_block(fusion: str) -> MSSBlock:
    torch.manual_seed(0)
    block = MSSBlock(CHANNELS, 4, fusion)
    block.norm, block.csm, block.cnn = nn.Identity(), LinearCSM(), LinearCNN()
    return block.double()


def draw() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, CHANNELS, 5, 7, dtype=torch.float64), torch.rand(2, 4, dtype=torch.float64)


def four_paths(block: MSSBlock, x: torch.Tensor, t: torch.Tensor) -> list[torch.Tensor]:
    scanned = block.csm(x)
    return [x, block.cnn(x, t), scanned, block.cnn(scanned, t)]


def test_cascade_is_the_sum_of_four_paths():
    block, (x, t) = linear_block("cascade"), draw()
    torch.testing.assert_close(block(x, t), sum(four_paths(block, x, t)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("path", range(4))
def test_concat_mixes_each_path(path):
    block, (x, t) = linear_block("concat"), draw()
    with torch.no_grad():
        block.mix.weight.zero_()
        block.mix.bias.zero_()
        for channel in range(CHANNELS):
            block.mix.weight[channel, path * CHANNELS + channel] = 1
    torch.testing.assert_close(block(x, t), four_paths(block, x, t)[path], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("fusion", ["cascade", "concat"])
def test_each_module_has_its_part(fusion):
    """Without CNN only x and CSM(x) are left, without CSM only x and CNN(x)."""
    block, (x, t) = linear_block(fusion), draw()
    if fusion == "concat":  # make the mix a plain sum
        with torch.no_grad():
            block.mix.weight.copy_(torch.eye(CHANNELS).repeat(1, 4)[..., None, None])
            block.mix.bias.zero_()
    csm, cnn = block.csm.map.weight.clone(), block.cnn.map.weight.clone()
    with torch.no_grad():
        block.cnn.map.weight.zero_()
        torch.testing.assert_close(block(x, t), x + block.csm(x))
        block.cnn.map.weight.copy_(cnn)
        block.csm.map.weight.zero_()
        torch.testing.assert_close(block(x, t), x + block.cnn(x, t))
        block.csm.map.weight.copy_(csm)
        torch.testing.assert_close(block(x, t), sum(four_paths(block, x, t)))


@pytest.mark.parametrize("fusion", ["cascade", "concat"])
def test_real_modules(fusion):
    torch.manual_seed(0)
    block = MSSBlock(CHANNELS, 4, fusion, d_state=4)
    x, t = (m.float() for m in draw())
    paths = [x, None, block.csm(block.norm(x)), None]
    if fusion == "cascade":
        h = x + paths[2]
        expected = h + block.cnn(h, t)
    else:
        paths[1], paths[3] = block.cnn(x, t), block.cnn(paths[2], t)
        expected = block.mix(torch.cat(paths, dim=1))
    torch.testing.assert_close(block(x, t), expected)


@pytest.mark.parametrize("fusion", ["cascade", "concat"])
def test_depends_on_time(fusion):
    block, (x, t) = MSSBlock(CHANNELS, 4, fusion).double(), draw()
    assert not torch.allclose(block(x, t), block(x, t + 1))


def test_shuffle_reaches_the_scan():
    block, (x, t) = linear_block("cascade"), draw()
    shuffle = torch.randperm(35)
    block(x, t, shuffle)
    assert block.csm.shuffle is shuffle


def test_scan_arguments_reach_ss2d():
    block = MSSBlock(8, 4, d_state=3, expand=1, dt_rank=2, d_conv=5, sequence_regeneration="train")
    assert (block.csm.d_state, block.csm.d_inner, block.csm.dt_rank) == (3, 8, 2)
    assert block.csm.conv2d.kernel_size == (5, 5)
    assert block.csm.sequence_regeneration == "train"


def test_unknown_fusion():
    with pytest.raises(ValueError, match=r"fusion must be one of \('cascade', 'concat'\), got 'sum'"):
        MSSBlock(8, 4, fusion="sum")
