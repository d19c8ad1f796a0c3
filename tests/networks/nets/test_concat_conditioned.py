from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from monai_mamba_gen.networks.nets import ConcatConditioned


class Recorder(torch.nn.Module):
    """Answers with its first channel and keeps what it was given."""

    def forward(self, x, timesteps):
        self.given = x, timesteps
        return x[:, :1]


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


def test_the_source_comes_as_further_channels():
    network = ConcatConditioned(Recorder(), multiple=4)
    x, context = draw(2, 1, 6, 9), draw(2, 1, 6, 9) + 1
    y = network(x, torch.tensor([5]), context, position=torch.zeros(2), direction=torch.zeros(2))
    assert torch.equal(y, x)
    given, timesteps = network.network.given
    assert given.shape == (2, 2, 8, 12)
    assert torch.equal(given[:, 1:, :6, :9], context)
    assert torch.equal(given[:, :, 7, :9], given[:, :, 5, :9])  # the border is repeated
    assert timesteps.tolist() == [5, 5]


@pytest.mark.parametrize("channels", [None, 3])
def test_no_condition_is_minus_one(channels):
    network = ConcatConditioned(Recorder(), context_channels=channels)
    network(draw(2, 1, 5, 5))
    given, timesteps = network.network.given
    assert given.shape[1] == 1 + (channels or 1)
    assert (given[:, 1:] == -1).all()
    assert timesteps.tolist() == [0, 0]


def test_three_dimensions_and_meta_tensors():
    network = ConcatConditioned(Recorder(), multiple=2)
    x = draw(1, 1, 3, 4, 5)
    assert torch.equal(torch.as_tensor(network(MetaTensor(x), context=MetaTensor(x))).as_subclass(torch.Tensor), x)


def test_bad_arguments():
    with pytest.raises(ValueError, match="multiple must be at least 1, got 0"):
        ConcatConditioned(Recorder(), multiple=0)
    with pytest.raises(ValueError, match=r"context must be \(2, 1, 5, 5\), got \(2, 1, 5, 4\)"):
        ConcatConditioned(Recorder())(draw(2, 1, 5, 5), context=draw(2, 1, 5, 4))
