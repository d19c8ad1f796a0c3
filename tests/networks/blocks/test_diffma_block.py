"""The block of DiffMa against itself written out slowly, and how it starts."""

from __future__ import annotations

import torch

from monai_mamba_gen.networks.blocks import DiffMaBlock
from monai_mamba_gen.ops import spiral_orders
from tests.networks.nets import diffma_reference as published

ORDERS = spiral_orders(3, 4)[2:5]


def draw(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make(**arguments) -> DiffMaBlock:
    torch.manual_seed(0)
    block = DiffMaBlock(8, **arguments)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return block


def test_values():
    block = make()
    state = {f"blocks.0.{name}": value for name, value in block.state_dict().items()}
    x, condition, mask = draw(2, 12, 8), draw(2, 16, seed=2), draw(2, 12, 1, seed=3).sigmoid()
    expected = published.block(state, 0, x, condition, mask, ORDERS.tolist())
    torch.testing.assert_close(block(x, condition, mask, ORDERS), expected, rtol=1e-4, atol=1e-4)


def test_gradients_reach_both_sequences():
    block = make(context_size=5)
    x, condition, mask = draw(2, 12, 8), draw(2, 5, seed=2), draw(2, 12, 1, seed=3).sigmoid()
    leaves = [m.requires_grad_() for m in (x, condition, mask)]
    block(*leaves, ORDERS).square().mean().backward()
    gradients = {name: p.grad for name, p in block.named_parameters()} | dict(enumerate(m.grad for m in leaves))
    assert not [name for name, g in gradients.items() if g is None or not g.isfinite().all() or g.abs().max() == 0]


def test_a_new_block_passes_on_and_can_learn():
    torch.manual_seed(0)
    block = DiffMaBlock(8)
    x, condition, mask = draw(2, 12, 8), draw(2, 16, seed=2), draw(2, 12, 1, seed=3).sigmoid()
    assert torch.equal(block(x, condition, mask, ORDERS), x)
    block(x, condition, mask, ORDERS).square().mean().backward()
    assert block.adaLN_modulation[1].bias.grad[16:].abs().min() > 0  # the gate opens
    with torch.no_grad():
        h = block.norm1(x)
        halves = 0.5 * block.mamba1(h, ORDERS) + 0.5 * block.mamba2(h * mask, ORDERS)
        block.adaLN_modulation[1].bias[16:] = 1.0  # gate: one
        torch.testing.assert_close(block(x, condition, mask, ORDERS), x + halves)


def test_the_mask_reaches_the_second_mamba_only():
    block = make()
    x, condition, mask = draw(2, 12, 8), draw(2, 16, seed=2), draw(2, 12, 1, seed=3).sigmoid()
    seen = {}
    for name in ("mamba1", "mamba2"):
        getattr(block, name).register_forward_hook(lambda m, i, o, name=name: seen.setdefault(name, []).append(i[0]))
    block(x, condition, mask, ORDERS)
    torch.testing.assert_close(seen["mamba2"][0], seen["mamba1"][0] * mask)
