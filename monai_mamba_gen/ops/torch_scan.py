"""
The selective scan in PyTorch alone, for every device and dtype.

Which form runs: the chunks of ``torch_chunks.py`` with their own backward pass; the same as one operator under
``torch.compile``; the forms of ``torch_forms.py`` while a model is traced or exported, and where a gradient is
differentiated once more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from .torch_chunks import scan_backward, scan_forward
from .torch_forms import compiled_scan_loop, scan_halving, scan_loop
from .torch_operator import scan_operator

__all__ = ["scan_torch"]


def _loop_the_mapped_dimension(function: Callable[..., tuple], info, in_dims: tuple, args: tuple) -> tuple:
    """Rule for vmap: one call for each element of the mapped dimension, results stacked."""
    args = [arg if dim is None else arg.unbind(dim) for arg, dim in zip(args, in_dims, strict=True)]
    columns = zip(
        *(
            function(*(arg if dim is None else arg[index] for arg, dim in zip(args, in_dims, strict=True)))
            for index in range(info.batch_size)
        ),
        strict=True,
    )
    stacked = tuple(None if column[0] is None else torch.stack(column) for column in columns)
    return stacked, tuple(None if result is None else 0 for result in stacked)


def _pull_back(
    function: Callable[..., tuple], tensors: Sequence[torch.Tensor | None], cotangents: Sequence[torch.Tensor | None]
) -> list[torch.Tensor | None]:
    """Gradients of a function of tensors in each of them; what is None as argument or result stays out."""
    given = [index for index, tensor in enumerate(tensors) if tensor is not None]

    def run(*values):
        full = list(tensors)
        for index, value in zip(given, values, strict=True):
            full[index] = value
        return tuple(result for result in function(*full) if result is not None)

    _, pull = torch.func.vjp(run, *(tensors[index] for index in given))
    grads: list[torch.Tensor | None] = [None] * len(tensors)
    for index, grad in zip(given, pull(tuple(c for c in cotangents if c is not None)), strict=True):
        grads[index] = grad
    return grads


class _ScanGradient(torch.autograd.Function):
    """`scan_backward`, whose own gradient is that of the gradient of `scan_loop`."""

    @staticmethod
    def forward(*args):
        return scan_backward(*args)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, _starts, ctx.delta_softplus, ctx.reduction = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, *grads):
        *tensors, orders = ctx.saved_tensors

        def gradients(grad_y, grad_last, *inputs):
            def scan(*inputs):
                return scan_loop(*inputs, orders, ctx.delta_softplus, ctx.reduction)

            return _pull_back(scan, inputs, (grad_y, grad_last))

        with torch.autocast(tensors[0].device.type, enabled=False):
            wanted = [None if tensor is None else grad for grad, tensor in zip(grads, tensors[2:], strict=True)]
            return *_pull_back(gradients, tensors, wanted), None, None, None, None

    @staticmethod
    def vmap(info, in_dims, *args):
        return _loop_the_mapped_dimension(_ScanGradient.apply, info, in_dims, args)


class _Scan(torch.autograd.Function):
    """`scan_forward`; keeps its inputs and the states at the starts of the chunks."""

    @staticmethod
    def forward(*args):
        return scan_forward(*args)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.delta_softplus, ctx.reduction = inputs
        ctx.save_for_backward(*tensors, output[2])
        ctx.mark_non_differentiable(output[2])

    @staticmethod
    def backward(ctx, grad_y, grad_last, _grad_starts):
        with torch.autocast(grad_y.device.type, enabled=False):  # backward() may be called inside an autocast region
            args = (grad_y, grad_last, *ctx.saved_tensors, ctx.delta_softplus, ctx.reduction)
            return *_ScanGradient.apply(*args), None, None, None

    @staticmethod
    def vmap(info, in_dims, *args):
        return _loop_the_mapped_dimension(_Scan.apply, info, in_dims, args)


def scan_torch(
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
    Scan K sets of sequences, each in its own order, in pure PyTorch.

    Takes ``O(L)`` time. Kept for the backward pass are the inputs and the state at the start of each chunk of time.
    ``torch.func`` works; vmap runs one call for each element of the mapped dimension. A gradient may be differentiated
    again, any number of times: the second differentiation, and nothing before it, runs step by step through autograd,
    holds the states of all L steps several times over and takes some twenty times as long as a backward pass.
    Forward-mode differentiation is not implemented, PyTorch raises its error.

    A trace holds a loop over time, a model from ``torch.export`` a graph of ``log2(L)`` stages, fixed in L.
    ``torch.compile`` meets one operator, ``monai_mamba_gen::scan_torch``, differentiable once.

    Args:
        u: input, (N, K, E, L), or (N, 1, E, L) for one input that all K sets share.
        delta: step sizes before bias and softplus, (N, K, E, L).
        A: state matrices, (K, E, S).
        B: input matrices, (N, K, S, L).
        C: output matrices, (N, K, S, L).
        D: skip weights, (K, E).
        delta_bias: added to delta, (K, E).
        orders: (K, L); set k visits cell ``orders[k, t]`` at time t. All other tensors are in the order of cells. None:
            0..L-1 for every set.
        delta_softplus: whether delta passes through a softplus.
        reduction: ``"none"``, or ``"sum"`` or ``"mean"`` of y over the K sets.

    Returns:
        y, (N, K, E, L), or (N, 1, E, L) reduced, with its channels last in memory where u's are; and the state after
        the last step, (N, K, E, S).
    """
    args = (u, delta, A, B, C, D, delta_bias, orders, delta_softplus, reduction)
    if torch.jit.is_tracing():
        return compiled_scan_loop()(*args)
    if torch.compiler.is_exporting():
        return scan_halving(*args)
    if torch.compiler.is_compiling():
        return scan_operator(*args)[:2]
    return _Scan.apply(*args)[:2]
