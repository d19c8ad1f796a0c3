"""Networks take MONAI's MetaTensor, as data loaders give it, and answer with the numbers of the plain tensor."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from monai_mamba_gen.networks.blocks import DirectionalScan, Mamba
from monai_mamba_gen.networks.nets import MSTG, VMDDPM, DiffMa


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("backend", ["native", "torch", "reference"])
@pytest.mark.parametrize("name", ["DiffMa", "MSTG", "VMDDPM"])
def test_meta_tensors(name, backend):
    if backend == "native":
        pytest.importorskip("monai_mamba_gen.ops._native", reason="the compiled kernel is not installed")
    torch.manual_seed(0)
    if name == "MSTG":
        network, x, context = MSTG(channels=(4, 8), d_state=2), draw(1, 1, 6, 5, 4), draw(1, 2, 6, 5, 4)
    elif name == "DiffMa":
        network = DiffMa(in_channels=1, image_size=8, hidden_size=16, num_layers=2, d_state=2)
        x, context = draw(2, 1, 8, 7), draw(2, 1, 8, 7)
    else:
        network = VMDDPM(channels=(8, 16), layers_per_stage=1, d_state=2, sequence_regeneration="off")
        x, context = draw(2, 1, 12, 10), None
    for module in network.modules():
        if isinstance(module, (DirectionalScan, Mamba)):
            module.scan_backend = backend
    given = None if context is None else MetaTensor(context)
    y = network(MetaTensor(x), torch.tensor([3]), given)
    assert torch.equal(torch.as_tensor(y).detach().as_subclass(torch.Tensor), network(x, torch.tensor([3]), context))
    y.square().mean().backward()
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)
