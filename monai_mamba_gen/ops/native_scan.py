"""The selective scan in C, for CPU tensors, as torch operators."""

from __future__ import annotations

import torch

from .native_module import call_native
from .torch_chunks import empty_output

__all__ = ["scan_native"]

CHUNK, GROUP = 32, 32  # SCAN_CHUNK and SCAN_GROUP of scan.h


def _strides(name: str, m: torch.Tensor) -> dict[str, int]:
    """Address and strides of a 4-dimensional tensor under the kernel's names."""
    return {name: m.data_ptr()} | {f"{name}_{axis}": m.stride(i) for i, axis in enumerate("nkct")}


def _addresses(**tensors: torch.Tensor | None) -> dict[str, int]:
    return {name: 0 if m is None else m.data_ptr() for name, m in tensors.items()}


def _common(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    skip: torch.Tensor | None,
    bias: torch.Tensor | None,
    orders: torch.Tensor | None,
    softplus: bool,
    reduction: str,
) -> dict[str, int]:
    batch, sets, channels, length = delta.shape
    sizes = {"batch": batch, "sets": sets, "channels": channels, "length": length, "states": A.shape[2]}
    flags = {
        "shared": u.shape[1] != sets,
        "merged": reduction != "none",
        "mean": reduction == "mean",
        "softplus": softplus,
    }
    views = _strides("u", u) | _strides("delta", delta) | _strides("B", B) | _strides("C", C)
    return sizes | flags | views | _addresses(A=A, skip=skip, bias=bias, orders=orders)


def _new_outputs(
    u: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, reduction: str, save: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Results of the forward operator, not yet filled: y, last state, saved states."""
    batch, sets, channels, length = delta.shape
    y = empty_output(u, sets if reduction == "none" else 1)
    last = u.new_empty((batch, sets, channels, A.shape[2]))
    chunks = -(-length // CHUNK)
    starts = u.new_empty((batch, sets, chunks - 1 if save else 0, A.shape[2], -(-channels // GROUP) * GROUP))
    return y, last, starts


@torch.library.custom_op("monai_mamba_gen::scan_native", mutates_args=(), device_types="cpu")
def _forward(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    skip: torch.Tensor | None,
    bias: torch.Tensor | None,
    orders: torch.Tensor | None,
    softplus: bool,
    reduction: str,
    save: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    y, last, starts = _new_outputs(u, delta, A, reduction, save)
    A, skip, bias, orders = (m if m is None else m.contiguous() for m in (A, skip, bias, orders))
    fields = _common(u, delta, A, B, C, skip, bias, orders, softplus, reduction) | _strides("y", y)
    call_native(fields | _addresses(last=last, starts=starts if save else None))
    return y, last, starts


@_forward.register_fake
def _(u, delta, A, B, C, skip, bias, orders, softplus, reduction, save):
    return _new_outputs(u, delta, A, reduction, save)


@torch.library.custom_op("monai_mamba_gen::scan_native_backward", mutates_args=(), device_types="cpu")
def _backward(
    grad_y: torch.Tensor,
    grad_last: torch.Tensor | None,
    starts: torch.Tensor,
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    skip: torch.Tensor | None,
    bias: torch.Tensor | None,
    orders: torch.Tensor | None,
    softplus: bool,
    reduction: str,
) -> list[torch.Tensor]:
    results = _new_gradients(u, delta, A, B, C)
    grad_u, grad_delta, grad_A, grad_B, grad_C, grad_skip, grad_bias = results
    A, skip, bias, orders, grad_last = (m if m is None else m.contiguous() for m in (A, skip, bias, orders, grad_last))
    fields = _common(u, delta, A, B, C, skip, bias, orders, softplus, reduction)
    for name, m in {"y": grad_y, "u": grad_u, "delta": grad_delta, "B": grad_B, "C": grad_C}.items():
        fields |= _strides(f"grad_{name}", m)
    fields |= _addresses(starts=starts, grad_last=grad_last, grad_A=grad_A, grad_skip=grad_skip, grad_bias=grad_bias)
    call_native(fields | {"backward": 1})
    return results


def _new_gradients(
    u: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor
) -> list[torch.Tensor]:
    """Gradients of u, delta, A, B, C, the skip weights and the bias, not yet filled."""
    batch, sets, channels, length = delta.shape
    grad_u = empty_output(u, u.shape[1])
    if delta.stride(2) == 1 and delta.stride(1) > delta.stride(0) > delta.stride(3):  # (K, N, L, E) in memory
        grad_delta = delta.new_empty((sets, batch, length, channels)).permute(1, 0, 3, 2)
    else:
        grad_delta = empty_output(delta, sets)
    grad_B, grad_C = (empty_output(m, sets) for m in (B, C))
    grad_A = torch.empty_like(A, memory_format=torch.contiguous_format)
    return [grad_u, grad_delta, grad_A, grad_B, grad_C, A.new_empty((sets, channels)), A.new_empty((sets, channels))]


@_backward.register_fake
def _(grad_y, grad_last, starts, u, delta, A, B, C, skip, bias, orders, softplus, reduction):
    return _new_gradients(u, delta, A, B, C)


def _setup_context(ctx, inputs, output):
    *tensors, softplus, reduction, save = inputs
    if save:
        ctx.save_for_backward(output[2], *tensors)
    ctx.options = softplus, reduction
    ctx.set_materialize_grads(False)


def _autograd(ctx, grad_y, grad_last, grad_starts):
    starts, u, delta, A, B, C, skip, bias, orders = ctx.saved_tensors
    if grad_y is None:
        sets = 1 if ctx.options[1] != "none" else delta.shape[1]
        grad_y = u.new_zeros((1,)).expand(u.shape[0], sets, *u.shape[2:])
    gradients = _backward(grad_y, grad_last, starts, u, delta, A, B, C, skip, bias, orders, *ctx.options)
    grad_skip, grad_bias = gradients[5:]
    return *gradients[:5], None if skip is None else grad_skip, None if bias is None else grad_bias, *(None,) * 4


_forward.register_autograd(_autograd, setup_context=_setup_context)


def scan_native(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None,
    delta_bias: torch.Tensor | None,
    orders: torch.Tensor | None,
    delta_softplus: bool,
    reduction: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Selective scan of K sets by the C kernel, in the form that all backends share (see `backends`).

    Float32. Keeps the inputs and one state every 32 steps for the backward pass. Differentiable once.
    """
    save = torch.is_grad_enabled()
    y, last, _ = _forward(u, delta, A, B, C, D, delta_bias, orders, delta_softplus, reduction, save)
    return y, last
