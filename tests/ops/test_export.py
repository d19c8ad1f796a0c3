"""Models with a scan in them leave Python: traced, exported, compiled, as ONNX; with the values they have here."""

from __future__ import annotations

import importlib.util
import io
import warnings

import pytest
import torch
from monai.networks.utils import convert_to_onnx, convert_to_torchscript

from monai_mamba_gen.networks.nets import VMDDPM
from monai_mamba_gen.ops import cross_scan_orders, selective_scan
from monai_mamba_gen.ops.torch_scan import scan_torch

# Tracers warn of every size they take for a constant, and of their own age.
pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::UserWarning:torch")
TOLERANCE = 1e-6

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime")), reason="needs onnx, onnxruntime"
)
needs_onnxscript = pytest.mark.skipif(importlib.util.find_spec("onnxscript") is None, reason="needs onnxscript")


class Public(torch.nn.Module):
    """The public scan, as a user's module calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.A_log = torch.nn.Parameter(torch.rand(6, 5))
        self.D = torch.nn.Parameter(torch.rand(6))
        self.projection = torch.nn.Conv1d(6, 16, 1)

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        delta, B, C = self.projection(u).split([6, 5, 5], dim=1)
        A = -torch.exp(self.A_log)
        return selective_scan(u, delta, A, B, C, self.D, u, delta_softplus=True, backend="torch")


class Ordered(Public):
    """The canonical form with index tables: four orders over one input, summed."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("orders", cross_scan_orders(3, 7))

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        delta, B, C = (m[:, None].expand(-1, 4, -1, -1) for m in self.projection(u).split([6, 5, 5], dim=1))
        A, D = -torch.exp(self.A_log).expand(4, -1, -1), self.D.expand(4, -1)
        y, last = scan_torch(u[:, None], delta, A, B, C, D, None, self.orders, True, "sum")
        return y[:, 0] + last.mean()


class Network(torch.nn.Module):
    """VM-DDPM of the smallest size, at a fixed time."""

    def __init__(self) -> None:
        super().__init__()
        self.network = VMDDPM.from_preset("micro", channels=(8, 16), d_state=2, sequence_regeneration="off")
        for module in self.network.modules():
            if hasattr(module, "scan_backend"):
                module.scan_backend = "torch"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x, timesteps=torch.full((1,), 7))


SHAPES = {Public: (6, 21), Ordered: (6, 21), Network: (1, 16, 12)}


def example(kind: type, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, *SHAPES[kind], generator=torch.Generator().manual_seed(batch))


def build(kind: type) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind().eval()


def assert_equal(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE * max(1.0, expected.abs().max().item()))


def save_and_load(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("with_gradients", [False, True])
def test_a_trace_is_saved_loaded_and_equal(kind, with_gradients):
    module, x = build(kind), example(kind)
    with torch.set_grad_enabled(with_gradients):
        traced = save_and_load(torch.jit.trace(module, x))
        for _ in range(3):  # TorchScript watches the first runs and rewrites the graph for the later ones
            assert_equal(traced(x), module(x))
        assert_equal(traced(example(kind, 3)), module(example(kind, 3)))


def test_a_trace_holds_loops_not_their_steps():
    module = build(Ordered)
    graphs = [torch.jit.trace(module, torch.randn(1, 6, 21)).inlined_graph for _ in range(2)]
    assert str(graphs[0]).count("prim::Loop") == 2  # over blocks, and over the steps of one
    assert str(graphs[0]).count("aten::exp(") == 2  # of A_log, and in the loop


def test_a_trace_takes_another_length():
    module = build(Public)
    traced = torch.jit.trace(module, example(Public))
    x = torch.randn(1, 6, 50, generator=torch.Generator().manual_seed(0))
    assert_equal(traced(x), module(x))


def test_a_loaded_trace_can_be_trained_further():
    module, x = build(Ordered), example(Ordered)
    traced = save_and_load(torch.jit.trace(module, x))
    for _ in range(3):
        loaded = torch.autograd.grad(traced(x).square().sum(), list(traced.parameters()))
        ours = torch.autograd.grad(module(x).square().sum(), list(module.parameters()))
        torch.testing.assert_close(loaded, ours, rtol=1e-4, atol=1e-4)


def test_monai_converts_a_network_to_torchscript(tmp_path):
    network, x = build(Network), example(Network)
    convert_to_torchscript(
        network, str(tmp_path / "n.ts"), verify=True, inputs=(x,), device="cpu", rtol=1e-4, atol=1e-6, use_trace=True
    )


@pytest.mark.parametrize("kind", [Public, Ordered])
def test_torch_export_is_portable_and_equal(kind):
    module, x = build(kind), example(kind)
    program = torch.export.export(module, (x,))
    spaces = {node.target.namespace for node in program.graph.nodes if hasattr(node.target, "namespace")}
    assert spaces <= {"aten", "higher_order"}
    assert len(program.graph.nodes) < 200  # 21 steps in the time of 5
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    assert_equal(torch.export.load(buffer).module()(x), module(x))


def test_torch_export_takes_any_batch():
    module = build(Ordered)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(module, (example(Ordered),), dynamic_shapes={"u": {0: batch}}).module()
    assert_equal(exported(example(Ordered, 5)), module(example(Ordered, 5)))


def run_onnx(path, x: torch.Tensor) -> torch.Tensor:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


@needs_onnx
@pytest.mark.parametrize("kind", SHAPES)
def test_onnx_by_trace(kind, tmp_path, capfd):
    module, x, path = build(kind), example(kind), str(tmp_path / "model.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (x,), path, dynamo=False, input_names=["x"], output_names=["y"], dynamic_axes={"x": {0: "batch"}}
        )
    capfd.readouterr()
    for batch in (2, 3):
        assert_equal(run_onnx(path, example(kind, batch)), module(example(kind, batch)))
    assert "Expected shape" not in capfd.readouterr().err  # the runtime finds the shapes that the graph promises


@needs_onnx
def test_onnx_holds_a_loop_not_its_steps(tmp_path):
    import onnx

    def nodes(length: int) -> list[str]:
        path = str(tmp_path / "model.onnx")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(build(Public), (torch.randn(1, 6, length),), path, dynamo=False)
        return [node.op_type for node in onnx.load(path).graph.node]

    assert nodes(9) == nodes(40)
    assert nodes(9).count("Loop") == 1


@needs_onnx
@needs_onnxscript
@pytest.mark.parametrize("kind", [Public, Ordered])
def test_onnx_by_export(kind, tmp_path):
    module, x, path = build(kind), example(kind), str(tmp_path / "model.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (x,), path, dynamo=True, verbose=False)
    assert_equal(run_onnx(path, x), module(x))


@needs_onnx
def test_monai_converts_a_network_to_onnx():
    network, x = build(Network), example(Network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        convert_to_onnx(
            network, [x], verify=True, device="cpu", use_ort=True, use_trace=True, rtol=1e-4, atol=1e-6, dynamo=False
        )


@pytest.mark.parametrize("kind", [Ordered, Network])
def test_torch_compile_sees_one_operator(kind):
    torch._dynamo.reset()
    module, x, graphs = build(kind), example(kind), []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(module, backend=backend, fullgraph=True)
    assert_equal(compiled(x), module(x))
    scans = sum(hasattr(m, "scan_backend") for m in module.modules()) or 1
    called = [str(node.target) for node in graphs[0].graph.nodes if node.op == "call_function"]
    assert sum("monai_mamba_gen" in name for name in called) == scans
    assert not any("exp2" in name for name in called)


def test_torch_compile_trains():
    torch._dynamo.reset()
    module, x = build(Ordered), example(Ordered)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    grads = [torch.autograd.grad(m(x).square().sum(), list(module.parameters())) for m in (compiled, module)]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)
