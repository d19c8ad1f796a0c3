"""
The CUDA kernel of mamba-ssm, where it is installed.

The test is for the compiled operator, not for the package: a package named ``mamba_ssm`` without the kernel exists, and
recent releases of mamba-ssm leave the kernel out unless asked for it.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from .scan_order import inverse_order
from .torch_scan import scan_torch

__all__ = ["mamba_ssm_problem", "scan_mamba_ssm"]


@functools.cache
def _load() -> ModuleType | str:
    """Return the module that holds the kernel's Python side, or why there is none."""
    try:
        importlib.import_module("selective_scan_cuda")
        return importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    except Exception as error:  # whatever a package raises that was built for another torch
        return f"the operator selective_scan_cuda of mamba-ssm cannot be imported ({type(error).__name__}: {error})"


def mamba_ssm_problem(device: torch.device | None = None) -> str | None:
    """Return why the kernel cannot be used on ``device`` (default: anywhere here), or None when it can."""
    if device is not None and device.type != "cuda":
        return f"the kernel runs on CUDA only, not on {device.type}"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    module = _load()
    return module if isinstance(module, str) else None


def _fills_blocks(length: int) -> bool:
    """
    Whether the backward kernel's blocks of threads end where the sequence ends.

    A block takes 128, 256, 512 or 1024 steps, the first that is enough, or else 2048; on ROCm, and on CUDA in one
    version between releases, at least 256.
    """
    return length % next((block for block in (256, 512, 1024) if length <= block), 2048) == 0


class _InOrder(torch.autograd.Function):
    """out[..., t] = m[..., orders[k, t]] of (N, K, C, L); its gradient gathers too, where that of `gather` scatters."""

    @staticmethod
    def forward(ctx, m, orders):
        ctx.save_for_backward(orders)
        return m.take_along_dim(orders[None, :, None], dim=3)

    @staticmethod
    def backward(ctx, grad):
        (orders,) = ctx.saved_tensors
        return _InOrder.apply(grad, inverse_order(orders)), None


class _LastState(torch.autograd.Function):
    """The last state with the gradient that the kernel leaves out, by `scan_torch`; free until a loss uses it."""

    @staticmethod
    def forward(ctx, last, u, delta, A, B, delta_bias, orders, delta_softplus):
        ctx.save_for_backward(u, delta, A, B, delta_bias, orders)
        ctx.delta_softplus = delta_softplus
        return last.view_as(last)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        *tensors, orders = ctx.saved_tensors
        wanted = ctx.needs_input_grad[1:6]
        tensors = [m if m is None else m.detach().requires_grad_(w) for m, w in zip(tensors, wanted)]
        u, delta, A, B, bias = tensors
        with torch.enable_grad(), torch.autocast(u.device.type, enabled=False):
            _, last = scan_torch(u, delta, A, B, B.detach(), None, bias, orders, ctx.delta_softplus, "none")
        gradients = iter(torch.autograd.grad(last, [m for m, w in zip(tensors, wanted) if w], grad))
        return None, *(next(gradients) if w else None for w in wanted), None, None


def scan_mamba_ssm(
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
    Selective scan of K sets by mamba-ssm's CUDA kernel, in the form that all backends share (see `backends`).

    Float32, differentiable once. The kernel knows no orders and no shared input: the inputs of every set are copied
    into the order of time, the results back. It gives the last state no gradient; that is computed in PyTorch, when a
    backward pass comes through the last state, at the cost of a scan there.
    """
    inputs = (u, delta, A, B, C, D, delta_bias)
    differentiable = torch.is_grad_enabled() and any(m is not None and m.requires_grad for m in inputs)
    dt, bias, softplus = delta, delta_bias, delta_softplus
    if differentiable and not _fills_blocks(delta.shape[3]):
        # The backward kernel relies on exp(dt A) = 1 in the steps beyond the end that fill up its last block. It reads
        # zeros there, and a bias or softplus turns them into other numbers: state-spaces/mamba issue 368. Those meet a
        # gradient of 0, so it shows where they overflow, as a positive A makes them do: NaN.
        dt = dt if bias is None else dt + bias[:, :, None]
        dt = F.softplus(dt) if softplus else dt
        bias, softplus = None, False
    in_time = (u.expand_as(delta), dt, B, C)
    if orders is not None:
        in_time = (_InOrder.apply(m, orders) for m in in_time)
    x, dt, B_t, C_t = in_time
    y, last = _load().selective_scan_fn(
        x.flatten(1, 2),
        dt.flatten(1, 2),
        A.flatten(0, 1),
        B_t,
        C_t,
        D=None if D is None else D.flatten(),
        z=None,
        delta_bias=None if bias is None else bias.flatten(),
        delta_softplus=softplus,
        return_last_state=True,
    )
    y, last = (m.unflatten(1, delta.shape[1:3]) for m in (y, last.detach()))
    if orders is not None:
        y = _InOrder.apply(y, inverse_order(orders))
    if reduction != "none":
        y = y.sum(1, keepdim=True) if reduction == "sum" else y.mean(1, keepdim=True)
    if differentiable:
        last = _LastState.apply(last, u, delta, A, B, delta_bias, orders, delta_softplus)
    return y, last
