"""The causal depthwise convolution of Mamba's blocks, by the CUDA kernel of causal-conv1d or by PyTorch."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

import torch
import torch.nn.functional as F

__all__ = ["causal_conv1d", "causal_conv1d_problem"]

_ACTIVATIONS = (None, "silu", "swish")
_BACKENDS = (None, "causal_conv1d", "torch")
_KERNEL_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@functools.cache
def _load() -> ModuleType | str:
    """Return the package, or why it cannot be used."""
    try:
        importlib.import_module("causal_conv1d_cuda")
        return importlib.import_module("causal_conv1d")
    except Exception as error:  # whatever a package raises that was built for another torch
        return f"the operator causal_conv1d_cuda of causal-conv1d cannot be imported ({type(error).__name__}: {error})"


def causal_conv1d_problem(device: torch.device | None = None) -> str | None:
    """Return why the kernel cannot be used on ``device`` (default: anywhere here), or None when it can."""
    if device is not None and device.type != "cuda":
        return f"the kernel runs on CUDA only, not on {device.type}"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    module = _load()
    return module if isinstance(module, str) else None


def _input_problem(x: torch.Tensor, weight: torch.Tensor) -> str | None:
    if not 2 <= weight.shape[1] <= 4:
        return f"the kernel takes widths of 2 to 4, weight has {weight.shape[1]}"
    if any(m.dtype not in _KERNEL_DTYPES for m in (x, weight)):
        return f"the kernel takes float32, float16 and bfloat16, x is {x.dtype}, weight {weight.dtype}"
    if x.numel() == 0:
        return "x is empty"
    if torch.jit.is_tracing() or torch.compiler.is_exporting():
        return "a model that is traced or exported must not depend on the kernel"
    if torch._C._are_functorch_transforms_active():
        return "the kernel has no rules for the transforms of torch.func"
    return None


def _check(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: str | None, backend: str | None
) -> None:
    if x.ndim != 3:
        raise ValueError(f"x must be (N, D, L), got shape {tuple(x.shape)}")
    channels = x.shape[1]
    if weight.ndim != 2 or weight.shape[0] != channels or weight.shape[1] < 1:
        raise ValueError(f"weight must be (D, width) with D = {channels}, width >= 1, got shape {tuple(weight.shape)}")
    if bias is not None and tuple(bias.shape) != (channels,):
        raise ValueError(f"bias must be ({channels},) or None, got shape {tuple(bias.shape)}")
    for name, m in (("x", x), ("weight", weight), ("bias", bias)):
        if m is not None and not m.is_floating_point():
            raise ValueError(f"{name} must be real floating point, got {m.dtype}")
        if m is not None and m.device != x.device:
            raise ValueError(f"{name} is on {m.device}, but x is on {x.device}; all must be on one device")
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation must be one of {_ACTIVATIONS}, got {activation!r}")
    if backend not in _BACKENDS:
        raise ValueError(f"backend must be one of {_BACKENDS}, got {backend!r}")


def _by_kernel(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: str | None
) -> torch.Tensor:
    # With channels innermost in memory, the kernel takes multiples of eight only.
    if x.stride(2) != 1 and any(size % 8 for size in (x.shape[1], x.stride(0), x.stride(2))):
        x = x.contiguous()
    bias = None if bias is None else bias.to(weight.dtype)
    return _load().causal_conv1d_fn(x, weight, bias, activation=activation)


def _by_torch(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: str | None) -> torch.Tensor:
    if x.numel() == 0:
        return x.clone()
    weight, bias = (None if m is None else m.to(x.dtype) for m in (weight, bias))
    with torch.autocast(x.device.type, enabled=False):
        if x.device.type == "cpu" and x.stride(1) == 1:  # channels last; known to conv2d alone, and there much faster
            past = F.pad(x[:, :, None], (weight.shape[1] - 1, 0))  # (N, D, 1, width - 1 + L)
            y = F.conv2d(past, weight[:, None, None], bias, groups=x.shape[1])[:, :, 0]
        else:
            y = F.conv1d(x, weight[:, None], bias, padding=weight.shape[1] - 1, groups=x.shape[1])[..., : x.shape[2]]
        return y if activation is None else F.silu(y)


def causal_conv1d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str | None = None,
    *,
    backend: str | None = None,
) -> torch.Tensor:
    """
    Convolve each channel over time, with a view of the past only.

    ``y[n, d, t] = bias[d] + sum_i weight[d, i] x[n, d, t - width + 1 + i]``, where x is zero before t = 0; then the
    activation. Arguments and meaning as ``causal_conv1d_fn`` of causal-conv1d, whose kernel computes it where its
    compiled operator can be imported, for CUDA tensors and widths of 2 to 4.

    Args:
        x: input, (N, D, L).
        weight: one filter a channel, (D, width); the last entry meets the present.
        bias: added to each channel, (D,).
        activation: None, or ``"silu"``, of which ``"swish"`` is another name.
        backend: ``"causal_conv1d"`` (the kernel) or ``"torch"``; default the kernel where it takes the inputs.

    Returns:
        (N, D, L) in x's dtype, inside autocast too.

    Raises:
        ValueError: when an argument does not fit, or the kernel is asked for and cannot be used (and why).

    Example:
        >>> x = torch.tensor([[[1.0, 2.0, 3.0]]])
        >>> causal_conv1d(x, torch.tensor([[10.0, 1.0]])).tolist()
        [[[1.0, 12.0, 23.0]]]
    """
    _check(x, weight, bias, activation, backend)
    if backend != "torch":
        problem = causal_conv1d_problem(x.device) or _input_problem(x, weight)
        if problem is None:
            return _by_kernel(x, weight, bias, activation)
        if backend is not None:
            raise ValueError(f"backend={backend!r} cannot be used here: {problem}; usable: ['torch']")
    return _by_torch(x, weight, bias, activation)
