"""The small parts of DiffMa: positions, patches, head, orders, embeddings."""

from __future__ import annotations

import math

import pytest
import torch

from monai_mamba_gen.networks.blocks import (
    ContextEmbedding,
    PatchHead,
    PatchTokens,
    SinusoidEmbedding,
    diffma_orders,
    position_table,
)
from monai_mamba_gen.ops import released_spiral_orders, spiral_orders


def test_positions_by_hand():
    table = position_table(8, 2, 3)
    assert table.shape == (1, 6, 8) and table.dtype == torch.float32
    for row in range(2):
        for column in range(3):
            expected = []
            for place in (column, row):  # the column first
                angles = [place / 10000 ** (k / 2) for k in range(2)]
                expected += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            torch.testing.assert_close(table[0, 3 * row + column], torch.tensor(expected))


@pytest.mark.parametrize("hidden_size", [0, 2, 6])
def test_positions_need_quarters(hidden_size):
    with pytest.raises(ValueError, match=f"hidden_size must be a multiple of 4, got {hidden_size}"):
        position_table(hidden_size, 2, 2)


def test_patches_and_head_agree_on_where_pixels_are():
    """A projection that copies pixels, and a head that copies them back."""
    channels, side = 3, 2
    size = channels * side**2
    image = torch.randn(2, channels, 4, 6)
    patches, head = PatchTokens(channels, size, side), PatchHead(size, 5, side, channels)
    with torch.no_grad():
        patches.proj.bias.zero_()
        patches.proj.weight.copy_(torch.eye(size).view(size, channels, side, side))
        head.norm_final = torch.nn.Identity()
        order = torch.arange(size).view(channels, side, side).permute(1, 2, 0).flatten()  # channels last in the vector
        head.linear.weight.copy_(torch.eye(size)[order])
        tokens = patches(image)
        assert torch.equal(tokens[:, 4], image[:, :, 2:4, 2:4].flatten(1))  # second row of patches, second column
        torch.testing.assert_close(head(tokens, torch.randn(2, 5), (2, 3)), image)


def test_orders_of_the_blocks():
    raster, spiral, released = (diffma_orders(name, 3, 3) for name in ("raster", "spiral", "released"))
    cells = torch.arange(9)
    assert torch.equal(raster, torch.stack([cells, cells.flip(0)]).expand(8, -1, -1))
    assert spiral.shape == released.shape == (8, 3, 9)
    for index in range(8):
        assert torch.equal(spiral[index], torch.stack([cells, *(o := spiral_orders(3, 3)[index])[None], o.flip(0)]))
        assert torch.equal(released[index], torch.stack([cells, *released_spiral_orders(3)[index]]))
    assert diffma_orders("spiral", 2, 5) is diffma_orders("spiral", 2, 5)
    with pytest.raises(ValueError, match="scan_order must be one of .* got 'snake'"):
        diffma_orders("snake", 2, 2)
    with pytest.raises(ValueError, match="knows square grids only, got 2 x 5 tokens"):
        diffma_orders("released", 2, 5)


def test_sinusoids_are_cosines_then_sines():
    embedding = SinusoidEmbedding(8, channels=6)
    seen = []
    embedding.mlp.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    embedding(torch.tensor([5]))
    angles = [5 * 10000 ** (-k / 3) for k in range(3)]
    torch.testing.assert_close(seen[0][0], torch.tensor([f(a) for f in (math.cos, math.sin) for a in angles]))


@pytest.mark.parametrize("size", [(1, 1), (28, 28), (5, 64)])
def test_context_embedding_takes_any_size(size):
    embedding = ContextEmbedding(3, 16)
    y = embedding(torch.randn(2, 3, *size))
    assert y.shape == (2, 16)
    y.square().mean().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in embedding.parameters())
