"""`torch.jit.script` of our networks, as MONAI's ckpt_export calls it."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from monai_mamba_gen.networks.blocks import portable_trace
from monai_mamba_gen.networks.nets import MSTG, VMDDPM, DeformableDiffusion, DiffMa

TOLERANCE = 1e-5


def awake(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.05)
    return network.eval()


def scripted(network: nn.Module) -> torch.jit.ScriptModule:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(network), buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)


def constant_devices(module: torch.jit.ScriptModule) -> list[str]:
    found = []

    def walk(block):
        for node in block.nodes():
            if node.kind() == "prim::Constant" and str(node.output().type()) == "Device":
                found.append(str(node))
            for inner in node.blocks():
                walk(inner)

    walk(module.inlined_graph)
    return found


@torch.no_grad()
def assert_same(module: torch.jit.ScriptModule, network: nn.Module, *arguments: torch.Tensor) -> None:
    for _ in range(2):
        torch.testing.assert_close(module(*arguments), network(*arguments), rtol=0, atol=TOLERANCE)


def test_vm_ddpm_with_classes_at_any_size():
    network = awake(VMDDPM(channels=(8, 16), layers_per_stage=1, d_state=2, num_class_embeds=3))
    module = scripted(network)
    for layer in network.modules():
        if hasattr(layer, "sequence_regeneration"):
            layer.sequence_regeneration = "off"
    x, times = torch.randn(2, 1, 21, 34), torch.tensor([3, 800])
    assert_same(module, network, x)
    assert_same(module, network, x[:, :, :16, :16], times)
    assert_same(module, network, x, times, torch.tensor([2, -1]))
    with torch.no_grad():
        assert (module(x, times, torch.tensor([2, 0])) - module(x, times)).abs().max() > 100 * TOLERANCE
    assert constant_devices(module) == []


def test_a_network_without_classes_says_so():
    module = scripted(VMDDPM(channels=(8, 16), layers_per_stage=1, d_state=2))
    with pytest.raises(torch.jit.Error, match="takes no context"):
        module(torch.zeros(1, 1, 8, 8), None, torch.tensor([1]))


def test_mstg_at_any_size():
    network = awake(MSTG(channels=(8, 8, 16), num_res_blocks=(0, 1, 1), d_state=2, expand=1))
    module = scripted(network)
    x, context = torch.randn(2, 1, 9, 8, 5), torch.randn(2, 2, 9, 8, 5)
    assert_same(module, network, x)
    assert_same(module, network, x, torch.tensor([400]), context)
    assert_same(module, network, x[:1, :, :6, :, :3], torch.tensor([2.0]), context[:1, :, :6, :, :3])
    assert constant_devices(module) == []


@pytest.mark.parametrize("scan_order", ["spiral", "raster"])
def test_diffma_at_the_size_of_its_tables(scan_order):
    network = awake(DiffMa(in_channels=2, hidden_size=16, num_layers=2, image_size=(8, 6), scan_order=scan_order))
    module = scripted(network)
    x, context = torch.randn(3, 2, 8, 6), torch.randn(3, 2, 8, 6)
    assert_same(module, network, x)
    assert_same(module, network, x, torch.tensor([1, 30, 999]), context)
    assert constant_devices(module) == []


def test_scripting_leaves_the_network_as_it_was():
    network = VMDDPM(channels=(8, 16), layers_per_stage=1, d_state=2).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    module = torch.jit.script(network)
    assert network.training and all(parameter.requires_grad for parameter in network.parameters())
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    network(torch.randn(2, 1, 8, 8)).mean().backward()


def test_a_plain_trace_would_keep_the_device_of_its_example():
    """The reason for `portable_trace`; where this fails, torch has learned it."""

    class Ramp(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.arange(x.shape[-1], device=x.device)

    x = torch.zeros(2, 3)
    assert constant_devices(torch.jit.trace(Ramp(), x)) != []
    traced = portable_trace(Ramp(), x)
    assert constant_devices(traced) == []
    assert traced(torch.zeros(1, 5)).tolist() == [[0, 1, 2, 3, 4]]


def test_two_volumes_alone_are_interpolated():
    network = awake(DeformableDiffusion(None, channels=(8, 8, 8, 8), final_conv_channels=(4,), integration_steps=2))
    nn.init.normal_([m for m in network.deformation.modules() if isinstance(m, nn.Conv3d)][-1].weight, std=1.0)
    network.num_frames = 3
    volumes = torch.rand(2, 2, 12, 9, 6) * 2 - 1
    with torch.no_grad():
        frames = network(volumes)
        expected = network(None, context=volumes, phases=(0.0, 0.5, 1.0))["frames"]
    assert torch.equal(frames, expected) and torch.equal(frames[:, 0], volumes[:, 0])
    assert (frames[:, 1] - frames[:, 0]).abs().mean() > 0.01
    module = scripted(network)
    assert_same(module, network, volumes)
    with torch.no_grad():
        for phases in (torch.tensor([0.3]), torch.tensor([[0.1, 0.9], [1.0, 0.0]])):
            torch.testing.assert_close(
                module(volumes, phases), network.interpolate(volumes, phases), rtol=0, atol=TOLERANCE
            )
    assert constant_devices(module) == []
    with pytest.raises(ValueError, match=r"volumes must be \(N, 2, H, W, D\), got"):
        network.interpolate(volumes[:, :1])
