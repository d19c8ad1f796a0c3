"""The PyTorch scan as one custom operator, which keeps the graphs of ``torch.compile`` small."""

from __future__ import annotations

import torch

from .torch_chunks import chunk_steps, empty_output, scan_backward, scan_forward

__all__ = ["scan_operator"]

_INPUTS = "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? delta_bias, Tensor? orders, "
_OPTIONS = "bool delta_softplus, str reduction"


@torch.library.custom_op(
    "monai_mamba_gen::scan_torch", mutates_args=(), schema=f"({_INPUTS}{_OPTIONS}) -> (Tensor, Tensor, Tensor)"
)
def scan_operator(*args):
    """Return what `scan_forward` returns: y, the last state, and the states at the starts of the chunks."""
    with torch.autocast(args[0].device.type, enabled=False):
        return scan_forward(*args)


@scan_operator.register_fake
def _(u, delta, A, B, C, D, delta_bias, orders, delta_softplus, reduction):
    batch, sets, channels, length = delta.shape
    chunks = (length + chunk_steps(A) - 1) // chunk_steps(A)
    return (
        empty_output(u, sets if reduction == "none" else 1),
        u.new_empty((batch, sets, channels, A.shape[2])),
        u.new_empty((chunks, sets, batch, A.shape[2], channels)),
    )


@torch.library.custom_op(
    "monai_mamba_gen::scan_torch_backward",
    mutates_args=(),
    schema=f"(Tensor grad_y, Tensor grad_last, {_INPUTS}Tensor starts, {_OPTIONS}) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _gradient_operator(*args):
    """Return what `scan_backward` returns, with an empty tensor for None, which operators cannot return."""
    with torch.autocast(args[0].device.type, enabled=False):
        return tuple(args[0].new_empty((0,)) if grad is None else grad for grad in scan_backward(*args))


@_gradient_operator.register_fake
def _(grad_y, grad_last, u, delta, A, B, C, D, delta_bias, orders, starts, delta_softplus, reduction):
    sequences = {name: empty_output(m, m.shape[1]) for name, m in {"u": u, "delta": delta, "B": B, "C": C}.items()}
    weights = (u.new_empty((0,)) if m is None else m.new_empty(m.shape) for m in (D, delta_bias))
    return sequences["u"], sequences["delta"], A.new_empty(A.shape), sequences["B"], sequences["C"], *weights


def _setup_context(ctx, inputs, output):
    *tensors, ctx.delta_softplus, ctx.reduction = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.mark_non_differentiable(output[2])


def _backward(ctx, grad_y, grad_last, _grad_starts):
    tensors = ctx.saved_tensors
    grads = _gradient_operator(grad_y, grad_last, *tensors, ctx.delta_softplus, ctx.reduction)
    return *(None if m is None else grad for grad, m in zip(grads, tensors[:7], strict=True)), None, None, None


scan_operator.register_autograd(_backward, setup_context=_setup_context)
