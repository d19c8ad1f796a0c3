"""VMDDPM as its users build it, without naming a backend, under the transforms of torch."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call, grad

from monai_mamba_gen.networks.nets import VMDDPM
from monai_mamba_gen.ops import scan_backends

OPERATOR = {"native": "scan_native", "torch": "scan_torch"}[scan_backends("cpu")[0]]


@pytest.fixture
def network() -> VMDDPM:
    return VMDDPM(channels=(8, 16), layers_per_stage=1, d_state=2, sequence_regeneration="off")


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, 1, 16, 12, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 4])


def gradients(function, network, batch) -> list[torch.Tensor]:
    return list(torch.autograd.grad(function(*batch).square().mean(), list(network.parameters())))


def test_compiles_into_one_graph_with_the_fastest_operator(network, batch):
    torch._dynamo.reset()
    names = []

    def backend(graph, _inputs):
        names.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    y = torch.compile(network, backend=backend, fullgraph=True)(*batch)
    assert torch.equal(y, network(*batch))
    assert sum(OPERATOR in name for name in names) == sum(hasattr(m, "scan_backend") for m in network.modules())


def test_trains_when_compiled(network, batch):
    torch._dynamo.reset()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(gradients(compiled, network, batch), gradients(network, network, batch))


def test_compiles_with_random_orders(batch):
    """The random order is drawn outside the graph."""
    torch._dynamo.reset()
    network = VMDDPM(channels=(8, 16), layers_per_stage=1, d_state=2)
    y = torch.compile(network, backend="aot_eager")(*batch)
    assert y.shape == batch[0].shape
    assert y.isfinite().all()


def test_gradients_by_torch_func(network, batch):
    parameters = dict(network.named_parameters())
    found = grad(lambda p: functional_call(network, p, batch).square().mean())(parameters)
    torch.testing.assert_close(list(found.values()), gradients(network, network, batch), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_trace_holds_no_operator_of_ours(network, batch):
    """So that it can be loaded where this package is not installed."""
    traced = torch.jit.trace(network, batch)
    assert "monai_mamba_gen::" not in str(traced.inlined_graph)
    torch.testing.assert_close(traced(*batch), network(*batch), rtol=1e-4, atol=1e-5)
