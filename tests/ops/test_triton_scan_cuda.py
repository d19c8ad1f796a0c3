"""The Triton scan on a CUDA device, where there is one: value, gradients, half precision, compilation, long tensors."""

from __future__ import annotations

import pytest
import torch

from monai_mamba_gen.ops import selective_scan, selective_scan_ref
from monai_mamba_gen.ops.triton_scan import scan_triton, triton_problem
from tests.ops.triton_cases import assert_near, loop, make_case, results

CUDA = torch.device("cuda")
PROBLEM = triton_problem(CUDA)
pytestmark = pytest.mark.skipif(PROBLEM is not None, reason=f"no Triton kernel on CUDA: {PROBLEM}")


def on_device(case):
    """The case on the device, every tensor with its strides."""
    return {name: None if tensor is None else tensor.to(CUDA) for name, tensor in case.items()}


@pytest.mark.parametrize(
    ("sizes", "layout", "softplus", "reduction"),
    [
        ((2, 4, 192, 300, 16), {}, True, "sum"),
        ((2, 4, 192, 256, 16), {"channel_last": False, "shared": False, "ordered": False}, True, "none"),
        ((64, 4, 96, 64, 16), {"shared": False}, True, "mean"),
        ((1, 2, 37, 133, 5), {}, True, "mean"),
        ((2, 1, 20, 70, 1), {"optional": False}, True, "none"),
        ((1, 2, 7, 65, 100), {"channel_last": False}, True, "sum"),
        ((2, 3, 1, 1, 3), {}, True, "sum"),
        ((1, 2, 24, 70, 16), {}, False, "mean"),
    ],
    ids=str,
)
def test_value_and_gradients(sizes, layout, softplus, reduction):
    case = on_device(make_case(*sizes, **layout))
    if not softplus:
        case["delta"], case["delta_bias"] = case["delta"].sigmoid(), None
    actual = results(scan_triton, case, softplus, reduction, torch.float32)
    assert_near(actual, results(loop, case, softplus, reduction, torch.float64))
    again = results(scan_triton, case, softplus, reduction, torch.float32)
    assert all(torch.equal(again[name], value) for name, value in actual.items())


@pytest.mark.parametrize(("scale", "shift"), [(20.0, 0.0), (1.0, 60.0), (1.0, -15.0)])
def test_extreme_steps(scale, shift):
    case = on_device(make_case(1, 2, 37, 70, 16))
    case["delta"], case["delta_bias"] = case["delta"] * scale + shift, None
    actual = results(scan_triton, case, True, "sum", torch.float32)
    assert_near(actual, results(loop, case, True, "sum", torch.float64))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_under_autocast(dtype, scan_inputs):
    given = scan_inputs(133, channels=48, state=16, groups=2, dtype=torch.float32)
    given = {name: tensor.to(CUDA, torch.float32 if name == "A" else dtype) for name, tensor in given.items()}
    with torch.autocast("cuda", dtype=dtype):
        y, last = selective_scan(**given, delta_softplus=True, return_last_state=True, backend="triton")
    expected = selective_scan_ref(**{k: v.double() for k, v in given.items()}, delta_softplus=True)
    assert y.dtype == dtype
    assert last.dtype == torch.float32
    limit = torch.finfo(dtype).eps * expected.abs().max()
    assert (y.double() - expected).abs().max() <= limit


def test_compiled_graph_gives_the_same():
    case = on_device(make_case(2, 4, 48, 70, 16))
    graph = torch.compile(scan_triton, fullgraph=True)
    actual = results(graph, case, True, "mean", torch.float32)
    expected = results(scan_triton, case, True, "mean", torch.float32)
    assert_near(actual, {name: value.double() for name, value in expected.items()})


def test_more_elements_than_an_int32_counts():
    channels, length = 2**16, 2**15 + 8
    if torch.cuda.mem_get_info()[0] < 24 * 2**30:
        pytest.skip("needs 24 GiB of free device memory")
    delta = torch.rand(1, 1, length, channels, device=CUDA).transpose(2, 3)
    A = -torch.rand(1, channels, 1, device=CUDA)
    B, C = torch.randn(2, 1, 1, 1, length, device=CUDA)
    y, last = scan_triton(delta, delta, A, B, C, None, None, None, False, "none")
    tail = slice(channels - 8, None)
    few = delta[:, :, tail]
    part, part_last = scan_triton(few, few, A[:, tail], B, C, None, None, None, False, "none")
    torch.testing.assert_close(y[:, :, tail], part, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(last[:, :, tail], part_last, rtol=1e-5, atol=1e-5)
