"""The causal convolution: by its definition, and with a stand-in for the CUDA kernel that records its calls."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

from monai_mamba_gen.ops import causal_conv, causal_conv1d


def draw(channels: int = 8, length: int = 9, width: int = 4, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(width)
    shapes = (2, channels, length), (channels, width), (channels,)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def by_definition(x, weight, bias=None, activation=None):
    width = weight.shape[1]
    y = torch.zeros_like(x) if bias is None else bias[:, None].expand_as(x).clone()
    for t in range(x.shape[2]):
        for i in range(width):
            if t - width + 1 + i >= 0:
                y[:, :, t] = y[:, :, t] + weight[:, i] * x[:, :, t - width + 1 + i]
    return y if activation is None else F.silu(y)


@pytest.fixture
def kernel_calls(monkeypatch):
    """A machine that seems to have CUDA and the kernel; nothing is moved there. Returns the arguments of its calls."""
    calls = []

    def causal_conv1d_fn(
        x, weight, bias=None, seq_idx=None, initial_states=None, return_final_states=False, final_states_out=None,
        activation=None,
    ):  # fmt: skip
        calls.append(locals())
        return by_definition(x, weight, bias, activation)

    package = ModuleType("causal_conv1d")
    package.causal_conv1d_fn = causal_conv1d_fn
    monkeypatch.setitem(sys.modules, "causal_conv1d", package)
    monkeypatch.setitem(sys.modules, "causal_conv1d_cuda", ModuleType("causal_conv1d_cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    causal_conv._load.cache_clear()
    yield calls
    causal_conv._load.cache_clear()


@pytest.fixture
def on_cuda(kernel_calls, monkeypatch):
    """Let CPU tensors pass for CUDA tensors."""
    monkeypatch.setattr(causal_conv, "causal_conv1d_problem", lambda device=None: None)
    return kernel_calls


@pytest.mark.parametrize("width", [1, 2, 4, 7, 12])
@pytest.mark.parametrize("activation", [None, "silu", "swish"])
def test_equals_its_definition(width, activation):
    x, weight, bias = draw(width=width, dtype=torch.float64)
    expected = by_definition(x, weight, bias, activation)
    torch.testing.assert_close(causal_conv1d(x, weight, bias, activation), expected, rtol=1e-12, atol=1e-12)
    expected = by_definition(x, weight, None, activation)
    torch.testing.assert_close(causal_conv1d(x, weight, activation=activation), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("width", [1, 4])
def test_layout_in_memory_makes_no_difference(width):
    """Channels last in memory take another routine of the CPU."""
    x, weight, bias = draw(width=width, dtype=torch.float64)
    last = x.transpose(1, 2).contiguous().transpose(1, 2)
    results = []
    for given in (x, last):
        leaves = [m.detach().clone(memory_format=torch.preserve_format).requires_grad_() for m in (given, weight, bias)]
        assert leaves[0].stride() == given.stride()
        y = causal_conv1d(*leaves, "silu")
        results.append([y, *torch.autograd.grad((y * by_definition(x, weight)).sum(), leaves)])
    for plain, other in zip(*results, strict=True):
        torch.testing.assert_close(other, plain, rtol=1e-12, atol=1e-12)


def test_impulse_comes_out_as_the_filter_and_never_before():
    x = torch.zeros(1, 1, 6)
    x[0, 0, 2] = 1
    y = causal_conv1d(x, torch.tensor([[1.0, 2.0, 3.0]]))
    assert y.tolist() == [[[0, 0, 3, 2, 1, 0]]]


def test_gradients():
    inputs = [m.requires_grad_() for m in draw(channels=3, length=5, dtype=torch.float64)]
    assert torch.autograd.gradcheck(lambda *args: causal_conv1d(*args, "silu"), inputs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_result_has_the_dtype_of_x(dtype):
    x, weight, bias = draw()
    y = causal_conv1d(x.to(dtype), weight, bias)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), causal_conv1d(x, weight, bias), rtol=3e-2, atol=6e-2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(causal_conv1d(x.to(dtype), weight, bias), y)


@pytest.mark.parametrize("shape", [(0, 8, 9), (2, 0, 9), (2, 8, 0)])
def test_empty_inputs(shape):
    x = torch.zeros(shape, requires_grad=True)
    y = causal_conv1d(x, torch.zeros(shape[1], 4))
    assert y.shape == shape
    assert y.requires_grad


def test_strided_input():
    x, weight, bias = draw()
    strided = x.transpose(1, 2).contiguous().transpose(1, 2)
    torch.testing.assert_close(causal_conv1d(strided, weight, bias), causal_conv1d(x, weight, bias))


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("backend", [None, "causal_conv1d"])
def test_arguments_reach_the_kernel_in_their_places(activation, backend, on_cuda):
    x, weight, bias = draw()
    y = causal_conv1d(x, weight, bias, activation, backend=backend)
    (call,) = on_cuda
    assert call["x"] is x
    assert call["weight"] is weight
    assert torch.equal(call["bias"], bias)
    assert call["activation"] == activation
    assert not any(call[name] for name in ("seq_idx", "initial_states", "return_final_states", "final_states_out"))
    torch.testing.assert_close(y, causal_conv1d(x, weight, bias, activation, backend="torch"))
    assert len(on_cuda) == 1


def test_the_bias_gets_the_dtype_that_the_kernel_wants(on_cuda):
    x, weight, bias = draw(dtype=torch.bfloat16)
    causal_conv1d(x, weight.float(), bias)
    assert on_cuda[0]["bias"].dtype == torch.float32


@pytest.mark.parametrize(("channels", "copied"), [(8, False), (6, True)])
def test_channels_last_is_copied_only_where_the_kernel_refuses_it(channels, copied, on_cuda):
    x = draw(channels)[0].transpose(1, 2).contiguous().transpose(1, 2)
    causal_conv1d(x, *draw(channels)[1:])
    assert on_cuda[0]["x"].is_contiguous() is copied


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({"width": 5}, "widths of 2 to 4, weight has 5"),
        ({"width": 1}, "widths of 2 to 4, weight has 1"),
        ({"dtype": torch.float64}, "x is torch.float64"),
        ({"length": 0}, "x is empty"),
    ],
)
def test_inputs_the_kernel_cannot_take(inputs, reason, on_cuda):
    arguments = draw(**inputs)
    causal_conv1d(*arguments)
    assert not on_cuda
    with pytest.raises(ValueError, match=f"backend='causal_conv1d' cannot be used here: .*{reason}"):
        causal_conv1d(*arguments, backend="causal_conv1d")


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_traced_model_does_not_depend_on_the_kernel(on_cuda):
    x, weight, bias = draw()
    traced = torch.jit.trace(lambda x: causal_conv1d(x, weight, bias), x, check_trace=False)
    assert not on_cuda
    torch.testing.assert_close(traced(x), causal_conv1d(x, weight, bias))


def test_devices_and_packages_that_are_refused(kernel_calls, monkeypatch):
    cuda = torch.device("cuda")
    assert causal_conv.causal_conv1d_problem() is None
    assert causal_conv.causal_conv1d_problem(torch.device("cpu")) == "the kernel runs on CUDA only, not on cpu"
    causal_conv1d(*draw())
    assert not kernel_calls
    causal_conv._load.cache_clear()
    monkeypatch.setitem(sys.modules, "causal_conv1d_cuda", None)
    assert "operator causal_conv1d_cuda of causal-conv1d cannot be imported" in causal_conv.causal_conv1d_problem(cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert causal_conv.causal_conv1d_problem(cuda) == "torch finds no CUDA device"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": torch.zeros(2, 8)}, r"x must be \(N, D, L\), got shape \(2, 8\)"),
        ({"weight": torch.zeros(7, 4)}, r"weight must be \(D, width\) with D = 8, width >= 1, got shape \(7, 4\)"),
        ({"weight": torch.zeros(8, 0)}, r"weight must be .* got shape \(8, 0\)"),
        ({"bias": torch.zeros(9)}, r"bias must be \(8,\) or None, got shape \(9,\)"),
        ({"x": torch.zeros(2, 8, 9, dtype=torch.int64)}, "x must be real floating point, got torch.int64"),
        ({"weight": torch.zeros(8, 4, device="meta")}, "weight is on meta, but x is on cpu"),
        ({"activation": "relu"}, "activation must be one of .*'silu', 'swish'.*, got 'relu'"),
        ({"backend": "cuda"}, "backend must be one of .*'causal_conv1d', 'torch'.*, got 'cuda'"),
        ({"backend": "causal_conv1d"}, "cannot be used here: .*CUDA only.*usable: .*'torch'"),
    ],
)
def test_wrong_arguments(changed, message):
    with pytest.raises(ValueError, match=message):
        causal_conv1d(**dict(zip(("x", "weight", "bias"), draw())) | changed)
