"""
The selective scan by a Triton kernel: CUDA without a compiler and without mamba-ssm.

The kernels are in `triton_kernels`, which is imported when one is needed. Each program handles one batch element, one
set and one block of channels. Results that the sets share, and gradients that channel blocks or batch elements share,
are written as parts and summed by PyTorch: no atomics, the same bits in every run. That holds K outputs for a moment,
as much memory as delta, and gives the device K times the programs of a loop over the sets.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
from types import ModuleType

import torch

__all__ = ["scan_triton", "triton_problem"]

_STEPS = 32  # steps between two stored states
_STAGES = 3  # how many steps ahead memory is read, on devices that can


@functools.cache
def _kernels() -> ModuleType:
    return importlib.import_module(f"{__package__}.triton_kernels")


def triton_problem(device: torch.device | None = None) -> str | None:
    """
    Return why the kernel cannot be used on ``device`` (default: anywhere here), or None when it can.

    With ``TRITON_INTERPRET=1`` in the environment Triton's interpreter runs the kernel, very slowly, on the CPU.
    """
    interpret = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on", "y")
    if not interpret and device is not None and device.type != "cuda":
        return f"the kernel runs on CUDA only, not on {device.type}"
    if not interpret and not torch.cuda.is_available():
        return "torch finds no CUDA device"
    try:
        interpreted = _kernels().INTERPRETED
    except ImportError as error:
        return f"triton cannot be imported ({error}); it comes with torch's CUDA wheels, else: pip install triton"
    if device is not None and device.type != ("cpu" if interpreted else "cuda"):
        return f"the kernel {'is interpreted on the CPU' if interpreted else 'runs on CUDA'} only, not on {device.type}"
    return None


def _block_sizes(rows: int, channels: int, states: int) -> tuple[int, int, int]:
    """
    Channels and states of a program's tile and the number of its warps, from the shape alone.

    A warp has at least four and, where enough programs remain to fill a large device, sixteen elements a thread: wider
    tiles read more from one cell and leave fewer parts of B's and C's gradients. One warp needs no barrier for sums.
    """
    block_s, widest = (1 << (max(size, 1) - 1).bit_length() for size in (states, channels))
    block_e = min(widest, max(4, 128 // block_s))
    while block_e < widest and 2 * block_e * block_s <= 512 and rows * -(-channels // (2 * block_e)) >= 1024:
        block_e *= 2
    return block_e, block_s, max(1, min(8, block_e * block_s // 512))


def _launch(kernel: str, u: torch.Tensor, programs: int, warps: int, *arguments, **sizes: bool | int) -> None:
    options = {"num_warps": warps, "enable_fp_fusion": True}
    with torch.cuda.device(u.device) if u.is_cuda else contextlib.nullcontext():
        getattr(_kernels(), kernel)[(programs,)](*arguments, STEPS=_STEPS, STAGES=_STAGES, **sizes, **options)


def _contiguous(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _time_is_last(u: torch.Tensor) -> bool:
    """Whether results like u keep time contiguous in memory; all others are channel-last."""
    return u.stride(3) == 1 and u.stride(2) != 1


def _cells_of_sets(u: torch.Tensor, sets: int) -> torch.Tensor:
    """An empty (N, K, E, L), in memory (K, N, L, E) or (K, N, E, L) as u has it."""
    batch, _, channels, length = u.shape
    if _time_is_last(u):
        return u.new_empty((sets, batch, channels, length)).transpose(0, 1)
    return u.new_empty((sets, batch, length, channels)).permute(1, 0, 3, 2)


def _sum_of_sets(cells: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Sum what `_cells_of_sets` allocated over its sets: (N, 1, E, L)."""
    if _time_is_last(u):
        return cells.transpose(0, 1).sum(0).unsqueeze(1)
    return cells.permute(1, 0, 3, 2).sum(0).transpose(1, 2).unsqueeze(1)


def _allocate_forward(
    u: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, reduction: str, save: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    batch, sets, channels, length = delta.shape
    y = torch.empty_like(u) if reduction == "none" and u.shape[1] == sets else _cells_of_sets(u, sets)
    last = u.new_empty((batch, sets, channels, A.shape[2]))
    starts = u.new_empty((batch, sets, -(-length // _STEPS), channels, A.shape[2])) if save else u.new_empty((0,))
    return y, last, starts


def _reduce(y: torch.Tensor, u: torch.Tensor, reduction: str) -> torch.Tensor:
    if reduction == "none":
        return y
    return _sum_of_sets(y, u) / y.shape[1] if reduction == "mean" else _sum_of_sets(y, u)


_INPUTS = "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? delta_bias, Tensor? orders"


@torch.library.custom_op(
    "monai_mamba_gen::scan_triton_forward",
    mutates_args=(),
    schema=f"({_INPUTS}, bool delta_softplus, str reduction, bool save) -> (Tensor, Tensor, Tensor)",
)
def _forward(u, delta, A, B, C, D, delta_bias, orders, delta_softplus, reduction, save):
    """y, the last states, and with ``save`` the states at chunk starts (N, K, chunks, E, S), else an empty tensor."""
    batch, sets, channels, length = delta.shape
    block_e, block_s, warps = _block_sizes(batch * sets, channels, A.shape[2])
    y, last, starts = _allocate_forward(u, delta, A, reduction, save)
    programs = batch * sets * -(-channels // block_e)
    if programs > 0:
        _launch(
            "scan_forward_kernel", u, programs, warps,
            u, delta, A.contiguous(), B, C, _contiguous(D), _contiguous(delta_bias), _contiguous(orders),
            y, last, starts if save else None, sets, channels, A.shape[2], length,
            *u.expand_as(delta).stride(), *delta.stride(), *B.stride(), *C.stride(), *y.stride(),
            SOFTPLUS=delta_softplus, BLOCK_E=block_e, BLOCK_S=block_s,
        )  # fmt: skip
    return _reduce(y, u, reduction), last, starts


@_forward.register_fake
def _forward_fake(u, delta, A, B, C, D, delta_bias, orders, delta_softplus, reduction, save):
    y, last, starts = _allocate_forward(u, delta, A, reduction, save)
    return _reduce(y, u, reduction), last, starts


def _allocate_backward(
    u: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, blocks: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Parts of the gradients of u, delta, A, B, C, D and delta_bias, as `scan_backward_kernel` writes them."""
    batch, sets, channels, length = delta.shape
    grad_u = torch.empty_like(u) if u.shape[1] == sets else _cells_of_sets(u, sets)
    grad_A = u.new_empty((batch, sets, channels, A.shape[2]))
    grad_B, grad_C = (u.new_empty((blocks, batch, length, sets, A.shape[2])) for _ in range(2))
    grad_D, grad_bias = (u.new_empty((batch, sets, channels)) for _ in range(2))
    return grad_u, torch.empty_like(delta), grad_A, grad_B, grad_C, grad_D, grad_bias


def _sum_parts(parts: tuple[torch.Tensor, ...], u: torch.Tensor) -> tuple[torch.Tensor, ...]:
    grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_bias = parts
    if grad_u.shape != u.shape:
        grad_u = _sum_of_sets(grad_u, u)
    grad_B, grad_C = (part.sum(0).permute(0, 2, 3, 1) for part in (grad_B, grad_C))
    return grad_u, grad_delta, grad_A.sum(0), grad_B, grad_C, grad_D.sum(0), grad_bias.sum(0)


@torch.library.custom_op(
    "monai_mamba_gen::scan_triton_backward",
    mutates_args=(),
    schema=f"(Tensor grad_y, Tensor? grad_last, {_INPUTS}, Tensor starts, bool delta_softplus)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _backward(grad_y, grad_last, u, delta, A, B, C, D, delta_bias, orders, starts, delta_softplus):
    """Gradients of u, delta, A, B, C, D and delta_bias; ``grad_y`` (N, K, E, L), that of every set before a mean."""
    batch, sets, channels, length = delta.shape
    block_e, block_s, warps = _block_sizes(batch * sets, channels, A.shape[2])
    blocks = -(-channels // block_e)
    parts = _allocate_backward(u, delta, A, blocks)
    programs = batch * sets * blocks
    if programs == 0:
        return _sum_parts(tuple(part.zero_() for part in parts), u)
    _launch(
        "scan_backward_kernel", u, programs, warps,
        grad_y, _contiguous(grad_last), u, delta, A.contiguous(), B, C, _contiguous(D), _contiguous(delta_bias),
        _contiguous(orders), starts, u.new_empty((programs, _STEPS, block_e, block_s)), *parts,
        batch, sets, channels, A.shape[2], length,
        *grad_y.stride(), *u.expand_as(delta).stride(), *delta.stride(), *B.stride(), *C.stride(),
        *parts[0].stride(), *parts[1].stride(),
        SOFTPLUS=delta_softplus, BLOCK_E=block_e, BLOCK_S=block_s,
    )  # fmt: skip
    return _sum_parts(parts, u)


@_backward.register_fake
def _backward_fake(grad_y, grad_last, u, delta, A, B, C, D, delta_bias, orders, starts, delta_softplus):
    return _sum_parts(_allocate_backward(u, delta, A, 1), u)


def _keep(ctx, inputs, output):
    *tensors, ctx.delta_softplus, ctx.reduction, ctx.save = inputs
    ctx.set_materialize_grads(False)
    if ctx.save:
        ctx.save_for_backward(*tensors, output[2])


def _gradients(ctx, grad_y, grad_last, grad_starts):
    if not ctx.save:
        raise RuntimeError("the scan was run with save=False and kept no states for a backward pass")
    *inputs, starts = ctx.saved_tensors
    u, delta, _, _, _, D, delta_bias, _ = inputs
    if grad_y is None:
        grad_y = u.new_zeros((1,))
    if ctx.reduction == "mean":
        grad_y = grad_y / delta.shape[1]
    grad_y = grad_y.expand(delta.shape)
    *gradients, grad_D, grad_bias = torch.ops.monai_mamba_gen.scan_triton_backward(
        grad_y, grad_last, *inputs, starts, ctx.delta_softplus
    )
    grad_D, grad_bias = (None if given is None else g for given, g in ((D, grad_D), (delta_bias, grad_bias)))
    return *gradients, grad_D, grad_bias, None, None, None, None


_forward.register_autograd(_gradients, setup_context=_keep)


def scan_triton(
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
    Selective scan of K sets, each in its own order, in float32 on a CUDA device; differentiable once.

    Args:
        u: inputs in cell order, (N, K, E, L), or (N, 1, E, L) shared by the sets.
        delta: step sizes before bias and softplus, (N, K, E, L).
        A: state matrices, (K, E, S).
        B: input matrices, (N, K, S, L).
        C: output matrices, as B.
        D: skip weights, (K, E), or None.
        delta_bias: added to delta, (K, E), or None.
        orders: (K, L) int64, set k visits cell ``orders[k, t]`` at time t; None visits the cells as they are numbered.
        delta_softplus: whether delta passes through a softplus.
        reduction: "none", or "sum" or "mean" over the sets.

    Returns:
        y in cell order, (N, K, E, L), or (N, 1, E, L) when reduced; and the states after the last step, (N, K, E, S).
    """
    inputs = (u, delta, A, B, C, D, delta_bias, orders)
    save = torch.is_grad_enabled() and any(m is not None and m.requires_grad for m in inputs)
    y, last, _ = torch.ops.monai_mamba_gen.scan_triton_forward(*inputs, delta_softplus, reduction, save)
    return y, last
