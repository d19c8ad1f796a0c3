"""
The Triton scan: its arithmetic in Triton's interpreter, its kernels compiled for GPUs that need not be there.

Whether kernels are interpreted is settled when triton is imported, so the interpreted tests run in a process of their
own, which `test_in_the_interpreter` starts on this very file.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from monai_mamba_gen.ops import triton_scan
from monai_mamba_gen.ops.triton_scan import scan_triton, triton_problem
from tests.ops.triton_cases import NAMES, assert_near, loop, make_case, results

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
compiled = pytest.mark.skipif(INTERPRETING, reason="Triton's interpreter is on")
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@needs_triton
@compiled
def test_in_the_interpreter():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "", "-k", "interpreted", __file__]
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    assert " passed" in result.stdout
    assert " skipped" not in result.stdout


class TestInterpreted:
    __test__ = INTERPRETING

    @pytest.mark.parametrize(
        ("sizes", "layout", "softplus", "reduction"),
        [
            ((1, 2, 6, 70, 5), {}, True, "mean"),
            ((1, 1, 20, 37, 16), {"channel_last": False, "shared": False, "ordered": False}, True, "none"),
            ((1, 4, 3, 17, 1), {"channel_last": False, "optional": False}, True, "sum"),
            ((1, 2, 9, 13, 16), {"shared": False}, True, "sum"),
            ((2, 2, 5, 9, 5), {}, True, "none"),
            ((1, 2, 5, 8, 5), {"channel_last": False, "ordered": False}, True, "mean"),
            ((2, 3, 5, 1, 5), {}, True, "sum"),
            ((1, 1, 1, 40, 3), {"optional": False}, True, "none"),
            ((1, 1, 5, 33, 5), {}, False, "sum"),
        ],
        ids=str,
    )
    def test_value_and_gradients(self, sizes, layout, softplus, reduction):
        case = make_case(*sizes, **layout)
        if not softplus:
            case["delta"], case["delta_bias"] = case["delta"].sigmoid(), None  # a step backwards in time would explode
        actual = results(scan_triton, case, softplus, reduction, torch.float32)
        assert_near(actual, results(loop, case, softplus, reduction, torch.float64))

    @pytest.mark.parametrize(("scale", "shift"), [(20.0, 0.0), (1.0, 60.0), (1.0, -40.0)])
    def test_extreme_steps(self, scale, shift):
        case = make_case(1, 1, 5, 34, 5)
        case["delta"], case["delta_bias"] = case["delta"] * scale + shift, None  # adding a bias to -40 rounds by 2e-6
        actual = results(scan_triton, case, True, "sum", torch.float32)
        assert_near(actual, results(loop, case, True, "sum", torch.float64))

    @pytest.mark.parametrize("factor", [1000.0, -0.1])
    def test_vanishing_and_growing_states(self, factor):
        case = make_case(1, 1, 5, 33, 5)
        case["A"] = case["A"] * factor
        actual = results(scan_triton, case, True, "sum", torch.float32)
        assert_near(actual, results(loop, case, True, "sum", torch.float64))

    def test_expanded_inputs(self):
        case = make_case(2, 2, 5, 12, 5, channel_last=False)
        case["u"] = case["u"][:1, :, :1].expand_as(case["u"])
        case["delta"] = case["delta"][..., :1].expand_as(case["delta"])
        case["B"], case["C"] = (case[name][:, :1].expand_as(case[name]) for name in "BC")
        case["A"], case["D"] = case["A"][:, :, :1].expand_as(case["A"]), case["D"][:1].expand_as(case["D"])
        actual = results(scan_triton, case, True, "sum", torch.float32)
        assert_near(actual, results(loop, case, True, "sum", torch.float64))

    @pytest.mark.parametrize("parts", ["y", "last"])
    def test_either_result_alone_has_gradients(self, parts):
        case = make_case(1, 2, 5, 7, 5)
        actual = results(scan_triton, case, True, "mean", torch.float32, parts)
        assert_near(actual, results(loop, case, True, "mean", torch.float64, parts))

    def test_same_bits_with_and_without_gradients(self):
        case = make_case(1, 2, 5, 34, 5)
        inputs = (*(case[name] for name in NAMES), case["orders"], True, "sum")
        plain = torch.ops.monai_mamba_gen.scan_triton_forward(*inputs, False)
        saving = torch.ops.monai_mamba_gen.scan_triton_forward(*inputs, True)
        assert plain[2].numel() == 0
        assert saving[2].shape == (1, 2, 2, 5, 5)
        assert all(torch.equal(a, b) for a, b in zip(plain[:2], saving[:2]))

    def test_nan_stays_in_its_channel_and_later(self):
        case = make_case(2, 1, 5, 6, 3, ordered=False)
        case["u"][1, 0, 2, 4] = torch.nan
        y, last = scan_triton(*(case[name] for name in NAMES), None, True, "none")
        assert y.isnan().nonzero().tolist() == [[1, 0, 2, 4], [1, 0, 2, 5]]
        assert last.isnan().any(-1).nonzero().tolist() == [[1, 0, 2]]

    @pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
    def test_memory_of_y_is_that_of_u(self, reduction):
        for channel_last in (True, False):
            case = make_case(2, 2, 3, 4, 2, channel_last=channel_last)
            y, _ = scan_triton(*(case[name] for name in NAMES), None, True, reduction)
            assert y.stride(2 if channel_last else 3) == 1

    @pytest.mark.parametrize("sizes", [(0, 2, 3, 4, 2), (2, 2, 0, 4, 2)])
    def test_empty(self, sizes):
        outcome = results(scan_triton, make_case(*sizes), True, "mean", torch.float32)
        batch, _, channels, length, _ = sizes
        assert outcome["y"].shape == (batch, 1, channels, length)
        assert not any(value.any() for value in outcome.values())

    @pytest.mark.parametrize(
        ("layout", "reduction"),
        [({}, "mean"), ({"channel_last": False, "shared": False, "optional": False, "ordered": False}, "none")],
        ids=str,
    )
    def test_operators_pass_opcheck(self, layout, reduction):
        case = make_case(1, 2, 3, 4, 2, **layout)
        inputs = [case[name] for name in (*NAMES, "orders")]
        leaves = [m.detach().requires_grad_() if m is not None and m.is_floating_point() else m for m in inputs]
        operators = torch.ops.monai_mamba_gen
        torch.library.opcheck(operators.scan_triton_forward.default, (*leaves, True, reduction, True))
        torch.library.opcheck(operators.scan_triton_forward.default, (*inputs, True, reduction, False))
        y, last, starts = operators.scan_triton_forward(*inputs, True, reduction, True)
        grad_y = torch.ones_like(y).expand_as(case["delta"])
        for grad_last in (None, torch.ones_like(last)):
            arguments = (grad_y, grad_last, *inputs, starts, True)
            torch.library.opcheck(operators.scan_triton_backward.default, arguments)

    def test_compiles_as_one_graph(self):
        case = make_case(1, 2, 3, 4, 2)
        graph = torch.compile(scan_triton, fullgraph=True, backend="aot_eager")
        actual = results(graph, case, True, "mean", torch.float32)
        expected = results(scan_triton, case, True, "mean", torch.float32)
        assert all(torch.equal(actual[name], expected[name]) for name in expected)

    def test_differentiable_once(self):
        case = make_case(1, 1, 2, 3, 2)
        u = case["u"].requires_grad_()
        y, _ = scan_triton(u, *(case[name] for name in NAMES[1:]), None, True, "sum")
        (gradient,) = torch.autograd.grad(y.square().sum(), u, create_graph=True)
        with pytest.raises(RuntimeError, match="scan_triton_backward"):
            gradient.sum().backward()

    def test_without_states_there_is_no_backward(self):
        case = make_case(1, 1, 2, 3, 2)
        inputs = (case["u"].requires_grad_(), *(case[name] for name in NAMES[1:]), None, True, "sum", False)
        with pytest.raises(RuntimeError, match="save=False"):
            torch.ops.monai_mamba_gen.scan_triton_forward(*inputs)[0].sum().backward()

    def test_usable_on_the_cpu_only(self):
        assert triton_problem(CPU) is None
        assert triton_problem() is None
        assert "interpreted" in triton_problem(CUDA)


class Recorder:
    """Stands in for the kernels' module and keeps what they are launched with."""

    def __init__(self):
        self.launches = {}

    def __getattr__(self, kernel):
        return _Launcher(self, kernel)


class _Launcher:
    def __init__(self, recorder, kernel):
        self.recorder, self.kernel = recorder, kernel

    def __getitem__(self, grid):
        return lambda *arguments, **options: self.recorder.launches.update({self.kernel: (arguments, options)})


def type_of(argument):
    """Triton's name for an argument's type, as its launcher would choose it; None where the value is compiled in."""
    if isinstance(argument, torch.Tensor):
        return {torch.float32: "*fp32", torch.int64: "*i64"}[argument.dtype]
    if argument is None or argument == 1:
        return None
    return "i32" if argument < 2**31 else "i64"


@needs_triton
@compiled
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    ("sizes", "layout", "softplus"),
    [
        ((4, 4, 192, 64, 16), {}, True),
        ((64, 4, 192, 64, 16), {"channel_last": False, "ordered": False, "optional": False}, False),
        ((1, 1, 6, 33, 100), {"shared": False}, True),
    ],
    ids=str,
)
def test_kernels_compile_for_a_gpu(sizes, layout, softplus, capability, monkeypatch, tmp_path):
    compiler = pytest.importorskip("triton.compiler", exc_type=ImportError)
    backends = pytest.importorskip("triton.backends", exc_type=ImportError)
    if "nvidia" not in backends.backends:
        pytest.skip("this triton has no compiler for NVIDIA devices")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernels, recorder = triton_scan._kernels(), Recorder()
    monkeypatch.setattr(triton_scan, "_kernels", lambda: recorder)
    results(scan_triton, make_case(*sizes, **layout), softplus, "sum", torch.float32)
    assert set(recorder.launches) == {"scan_forward_kernel", "scan_backward_kernel"}
    for name, (arguments, options) in recorder.launches.items():
        kernel = getattr(kernels, name)
        given = dict(zip(kernel.arg_names, arguments))
        constants = {key: value for key, value in given.items() if type_of(value) is None}
        constants |= {key: value for key, value in options.items() if key in kernel.arg_names}
        assert given.keys() | constants.keys() == set(kernel.arg_names)
        signature = {key: "constexpr" if key in constants else type_of(given[key]) for key in kernel.arg_names}
        source = compiler.ASTSource(kernel, signature, constants)
        target = backends.compiler.GPUTarget("cuda", capability, 32)
        chosen = {key: value for key, value in options.items() if key not in kernel.arg_names}
        assembly = compiler.compile(source, target=target, options=chosen).asm
        assert f".target sm_{capability}" in assembly["ptx"]
        assert "atom." not in assembly["ptx"]
        assert len(assembly["cubin"]) > 0


@compiled
def test_refused_on_the_cpu():
    assert "runs on CUDA only" in triton_problem(CPU)


@compiled
def test_refused_without_a_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no CUDA device" in triton_problem()
    assert "no CUDA device" in triton_problem(CUDA)


@compiled
def test_refused_without_triton(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "triton", None)  # an import of it raises ImportError
    monkeypatch.delitem(sys.modules, "monai_mamba_gen.ops.triton_kernels", raising=False)
    triton_scan._kernels.cache_clear()
    assert "pip install triton" in triton_problem(CUDA)


@needs_triton
@compiled
def test_usable_on_a_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert triton_problem(CUDA) is None


@compiled
def test_import_leaves_triton_alone():
    code = "import sys, monai_mamba_gen.ops.triton_scan; sys.exit('triton' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[2])


@pytest.mark.parametrize(
    ("rows", "channels", "states"), [(16, 192, 16), (256, 192, 16), (1, 5, 1), (4, 1, 300), (4, 2000, 1), (1, 3, 0)]
)
def test_block_sizes(rows, channels, states):
    block_e, block_s, warps = triton_scan._block_sizes(rows, channels, states)
    assert all(size & (size - 1) == 0 for size in (block_e, block_s, warps))
    assert block_s >= max(states, 1)
    assert block_e < 2 * channels
    assert 1 <= warps <= 8
    if rows == 256:  # enough programs for wide tiles
        assert block_e * block_s == 512
