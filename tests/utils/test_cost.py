"""Parameters and multiply-accumulates, against counts by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_mamba_gen.networks.blocks import SS2D
from monai_mamba_gen.networks.nets import VMDDPM
from monai_mamba_gen.utils.cost import count_cost, scan_macs


class Network(nn.Module):
    """A block under the signature of a network."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor | None = None) -> torch.Tensor:
        return self.block(x)


def test_convolution_and_linear_layer_by_hand():
    network = Network(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 20, 5)))
    parameters, macs = count_cost(network, torch.zeros(2, 3, 4, 5))
    assert parameters == 8 * 3 * 9 + 8 + 5 * 8 * 20 + 5
    assert macs == 2 * (20 * 8 * 3 * 9 + 8 * 20 * 5)


def test_convention_of_the_scan():
    assert scan_macs(positions=10, channels=3, state=4) == 9 * 10 * 3 * 4 + 10 * 3


@pytest.mark.parametrize(
    ("d_model", "side", "megamacs"), [(96, 32, 207), (192, 16, 137), (384, 8, 101), (768, 4, 84)], ids=str
)
def test_known_counts_of_the_block(d_model, side, megamacs):
    """VM-UNet's four levels at 128 px, each product of the block counted by hand, the scan by VMamba's formula."""
    ss2d, positions = SS2D(d_model), side * side
    macs = count_cost(Network(ss2d), torch.zeros(1, d_model, side, side))[1]
    weights = (ss2d.in_proj.weight, ss2d.conv2d.weight, ss2d.x_proj_weight, ss2d.dt_projs_weight, ss2d.out_proj.weight)
    products = positions * sum(weight.numel() for weight in weights)  # each weight meets each cell once
    assert macs == products + scan_macs(positions, 4 * 2 * d_model, 16)
    assert round(macs / 1e6) == megamacs


def test_grows_with_batch_and_area():
    network = VMDDPM(channels=(8, 16), layers_per_stage=1, stem_stride=2, d_state=4)
    once = count_cost(network, torch.zeros(1, 1, 16, 16))[1]
    assert count_cost(network, torch.zeros(4, 1, 16, 16))[1] == 4 * once
    assert count_cost(network, torch.zeros(1, 1, 32, 32))[1] == pytest.approx(4 * once, rel=0.02)


@pytest.mark.parametrize("backend", [None, "torch", "reference"])
def test_count_does_not_depend_on_the_backend_and_leaves_it(backend):
    ss2d = SS2D(8, scan_backend=backend)
    expected = count_cost(Network(SS2D(8)), torch.zeros(1, 8, 4, 4))
    assert count_cost(Network(ss2d), torch.zeros(1, 8, 4, 4)) == expected
    assert ss2d.scan_backend == backend
    assert not ss2d._forward_pre_hooks


def test_network_is_restored_after_an_error():
    ss2d = SS2D(8)
    with pytest.raises(RuntimeError):
        count_cost(Network(ss2d), torch.zeros(1, 9, 4, 4))
    assert ss2d.scan_backend is None
    assert not ss2d._forward_pre_hooks
