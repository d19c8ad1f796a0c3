"""SpaceTimeScan and MSTBlock: definition, reach in space and time, gradients, odd sizes, one frame."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from monai_mamba_gen.networks.blocks import FrameEmbedding, MSTBlock, SpaceTimeScan
from monai_mamba_gen.ops import inverse_order, selective_scan_ref, space_time_orders


def make(cls=SpaceTimeScan, *arguments, **options):
    torch.manual_seed(0)
    return cls(*arguments, **options)


def noise(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def by_definition(block: SpaceTimeScan, x: torch.Tensor) -> torch.Tensor:
    """The block with one reference scan for each order."""
    n, t, c, *spatial = x.shape
    length, inner = t * torch.Size(spatial).numel(), block.d_inner
    tokens = x.movedim(2, -1).reshape(n, length, c)
    hidden, gate = F.linear(tokens, block.in_proj.weight).chunk(2, dim=-1)
    frames = hidden.reshape(n * t, *spatial, inner).movedim(-1, 1)
    hidden = F.silu(block.conv(frames).movedim(1, -1).reshape(n, length, inner))
    A = -torch.exp(block.A_logs).unflatten(0, (block.directions, -1))
    total = torch.zeros_like(hidden)
    for k, order in enumerate(space_time_orders((t, *spatial), block.paths, block.bidirectional, block.snake)):
        sequence = hidden[:, order].transpose(1, 2)
        projected = torch.einsum("nel,pe->npl", sequence, block.x_proj_weight[k])
        dt, B, C = projected.split([block.dt_rank, block.d_state, block.d_state], dim=1)
        dt = torch.einsum("nrl,er->nel", dt, block.dt_projs_weight[k])
        D = block.Ds.unflatten(0, (block.directions, -1))[k]
        y = selective_scan_ref(sequence, dt, A[k], B, C, D, None, block.dt_projs_bias[k], True)
        total += y.transpose(1, 2)[:, inverse_order(order)]
    y = F.layer_norm(total, (inner,), block.out_norm.weight, block.out_norm.bias) * F.silu(gate)
    return F.linear(y, block.out_proj.weight).reshape(n, t, *spatial, c).movedim(-1, 2)


@pytest.mark.parametrize("size", [(3, 4, 3, 2), (1, 5, 1, 3), (4, 1, 1, 1)], ids=str)
@pytest.mark.parametrize("options", [{}, {"paths": ("space", "space_transposed", "time"), "snake": False}], ids=str)
def test_against_the_definition(size, options):
    block = make(SpaceTimeScan, 6, d_state=3, **options).double()
    x = noise(2, size[0], 6, *size[1:], dtype=torch.float64)
    torch.testing.assert_close(block(x), by_definition(block, x), rtol=1e-10, atol=1e-10)


def test_two_spatial_dimensions():
    block = make(SpaceTimeScan, 4, spatial_dims=2, d_state=2).double()
    x = noise(1, 3, 4, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(block(x), by_definition(block, x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("paths", [("space",), ("time",), ("space", "time")], ids=str)
def test_every_cell_reaches_every_other_in_space_and_time(paths):
    block = make(SpaceTimeScan, 4, paths=paths, d_state=2, d_conv=1).double()
    x = noise(1, 3, 4, 3, 2, 2, dtype=torch.float64).requires_grad_()
    block(x)[0, 1, :, 1, 1, 0].sum().backward()
    assert bool((x.grad.abs().sum(dim=2) > 0).all())


def test_one_way_sees_only_what_came_before():
    block = make(SpaceTimeScan, 4, paths=("space",), bidirectional=False, snake=False, d_state=2, d_conv=1)
    x = noise(1, 2, 4, 2, 2, 1).requires_grad_()
    block(x)[0, 0, :, 1, 0, 0].sum().backward()
    seen = x.grad.abs().sum(dim=2).flatten() > 0
    assert seen.tolist() == [True] * 3 + [False] * 5


def test_gradients_by_finite_differences():
    block = make(SpaceTimeScan, 2, d_state=2, expand=1).double()
    x = noise(1, 2, 2, 2, 2, 1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(block, (x,))


def test_samples_do_not_meet():
    block = make(SpaceTimeScan, 4, d_state=2)
    x = noise(3, 2, 4, 3, 2, 2)
    torch.testing.assert_close(block(x)[1:2], block(x[1:2]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"d_conv": 2}, "d_conv must be odd, got 2"), ({"paths": ("up",)}, "paths must be"), ({"d_state": 0}, "d_state")],
)
def test_scan_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        SpaceTimeScan(4, **options)


@pytest.mark.parametrize("pool", [1, 2, 3])
@pytest.mark.parametrize("size", [(2, 5, 4, 3), (1, 1, 1, 1), (3, 7, 2, 1)], ids=str)
def test_mst_block_sizes_and_gradients(pool, size):
    block = make(MSTBlock, 4, 8, 12, pool=pool, d_state=2)
    y = block(noise(2, size[0], 4, *size[1:]), noise(2, size[0], 12))
    assert y.shape == (2, size[0], 8, *size[1:])
    y.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())


def test_mst_block_is_local_features_plus_gated_context():
    block = make(MSTBlock, 4, 4, 8, d_state=2)
    x, embedding = noise(1, 2, 4, 3, 3, 2), noise(1, 2, 8)
    with torch.no_grad():
        local = block.local(x.flatten(0, 1), embedding.flatten(0, 1))
        block.gate.weight.zero_()
        block.gate.bias.fill_(-100.0)  # gate shut
        torch.testing.assert_close(block(x, embedding).flatten(0, 1), local)
        block.gate.bias.fill_(100.0)  # gate open
        context = block.mamba(block.modulation(block.norm(local), embedding.flatten(0, 1)).unflatten(0, (1, 2)))
        torch.testing.assert_close(block(x, embedding), local.unflatten(0, (1, 2)) + context)


def test_mst_block_refuses_a_pool_below_one():
    with pytest.raises(ValueError, match="pool must be at least 1, got 0"):
        MSTBlock(4, 4, 8, pool=0)


@pytest.mark.parametrize("context_frames", [0, 1, 2, 3])
def test_frame_embedding_tells_roles_phases_and_times_apart(context_frames):
    torch.manual_seed(0)
    embed = FrameEmbedding(8, 16, context_frames)
    out = embed(torch.tensor([5.0, 40.0]), 3)
    assert out.shape == (2, context_frames + 3, 16)
    first = min(context_frames, 1)
    noisy = out[:, first : first + 3]
    assert not torch.allclose(noisy[0], noisy[1])  # time
    assert not torch.allclose(noisy[0, 0], noisy[0, 1])  # phase
    given = torch.cat([out[:, :first], out[:, first + 3 :]], dim=1)
    torch.testing.assert_close(given[0], given[1])  # clean, whatever the time
    distinct = torch.cdist(out[0], out[0]) + torch.eye(out.shape[1])
    assert bool((distinct > 1e-3).all())
