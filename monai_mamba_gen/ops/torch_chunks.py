"""
The arithmetic of the PyTorch scan: forward and backward over time, chunk by chunk, in a few work arrays.

In a chunk the decay ``exp(dt A)`` and the input ``dt B u`` of all steps are computed at once, then the recurrence runs
step by step, which is exact for any ``dt``: nothing is divided and no product of decays is formed. Only the state at
the start of each chunk is kept; the backward pass recomputes the rest. Autograd sees nothing of this file.

Work arrays are (T, K, N, S, E): time first, so that a step is one block of memory, and channels last, so that step
sizes (T, K, N, 1, E) and matrices (T, K, N, S, 1) broadcast along whole rows.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

__all__ = ["ScanArguments", "chunk_steps", "empty_output", "scan_backward", "scan_forward"]

# Elements of one work array: those of one sample, which set the steps of a chunk, and those of all samples together.
# Measured on two cores; half or double costs up to a third more time.
_SAMPLE_ELEMENTS = 2**18
_WORK_ELEMENTS = 2**20
_MIN_STEPS = 16  # with fewer, the states kept at the starts of the chunks would outweigh everything else
_LOG2_E = math.log2(math.e)


def chunk_steps(A: torch.Tensor) -> int:
    """Return the steps of a chunk; the same for every N and L, so that the batch does not change a sample's result."""
    return max(_MIN_STEPS, _SAMPLE_ELEMENTS // max(1, A.numel()))


def empty_output(u: torch.Tensor, sets: int) -> torch.Tensor:
    """Return an empty (N, sets, E, L), channels last in memory where u has its channels last."""
    batch, _, channels, length = u.shape
    if u.stride(2) == 1:
        return u.new_empty((batch, length, sets, channels)).permute(0, 2, 3, 1)
    return u.new_empty((batch, sets, channels, length))


def _transpose(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """
    Copy (N, K, X, L) into a target of other memory order, sample by sample.

    Whole matrices are what PyTorch's blocked transposition takes; it is five times faster than a copy by strides.
    """
    length = source.shape[3]
    for a, b in zip(source.unbind(0), target.unbind(0), strict=True):
        if b.stride(2) == 1:
            b.view(-1, length).copy_(a.permute(2, 0, 1).reshape(length, -1).t())
        else:
            b.permute(2, 0, 1).view(length, -1).copy_(a.reshape(-1, length).t())
    return target


def _channels_last(m: torch.Tensor) -> torch.Tensor:
    """Return (N, K, X, L) with X contiguous; itself where it is so already."""
    if m.stride(2) == 1 or m.shape[2] == 1:
        return m
    return _transpose(m, _empty_channels_last(m))


def _empty_channels_last(m: torch.Tensor) -> torch.Tensor:
    return m.new_empty((m.shape[0], m.shape[3], m.shape[1], m.shape[2])).permute(0, 2, 3, 1)


def _in_order_of(m: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return m (N, K, X, L), channels last, with L contiguous instead where ``like`` has no channels last."""
    if like.stride(2) == 1:
        return m
    return _transpose(m, torch.empty_like(m, memory_format=torch.contiguous_format))


class ScanArguments:
    """Arguments of a scan, (N, K, X, L) in cell order, and what a chunk of them is; fields as in `scan_torch`."""

    def __init__(self, u, delta, A, B, C, D, delta_bias, orders, delta_softplus, reduction) -> None:
        self.u, self.delta, self.B, self.C = (_channels_last(m) for m in (u, delta, B, C))
        self.A = A.transpose(1, 2).unsqueeze(1).contiguous()  # (K, 1, S, E)
        self.exponent = self.A * _LOG2_E  # exp(dt A) as a power of two, which torch computes much faster
        self.D = None if D is None else D.unsqueeze(1)  # (K, 1, E)
        self.delta_bias = None if delta_bias is None else delta_bias.unsqueeze(1)
        self.delta_softplus, self.reduction = delta_softplus, reduction
        self.batch, self.sets, self.channels, self.length = delta.shape
        self.state = A.shape[2]
        self.steps = chunk_steps(A)
        self.cells = None if orders is None else orders.t()  # (L, K)
        self.each_set = torch.arange(self.sets, device=u.device)
        self.work: dict[str, torch.Tensor] = {}

    def sample_groups(self) -> list[slice]:
        """Slices of N whose work arrays stay small."""
        size = max(1, _WORK_ELEMENTS // max(1, min(self.steps, self.length) * self.A.numel()))
        return [slice(low, min(low + size, self.batch)) for low in range(0, self.batch, size)]

    def chunks(self) -> list[slice]:
        """Slices of time."""
        return [slice(low, min(low + self.steps, self.length)) for low in range(0, self.length, self.steps)]

    def array(self, name: str, times: slice, samples: slice) -> torch.Tensor:
        """Return a (T, K, N, S, E) work array; the same memory for every chunk."""
        shape = (times.stop - times.start, self.sets, samples.stop - samples.start, self.state, self.channels)
        size = math.prod(shape)
        if name not in self.work or self.work[name].numel() < size:
            self.work[name] = self.u.new_empty((size,))
        return self.work[name][:size].view(shape)

    def read(self, m: torch.Tensor, times: slice, samples: slice) -> torch.Tensor:
        """Return a chunk (T, K or 1, N, X), in the order of time, contiguous."""
        m = m[samples].permute(3, 1, 0, 2)
        if self.cells is None:
            return m[times].contiguous()
        return m[:, 0][self.cells[times]] if m.shape[1] == 1 else m[self.cells[times], self.each_set]

    def write(self, target: torch.Tensor, chunk: torch.Tensor, times: slice, samples: slice) -> None:
        """Put a chunk (T, K, N, X) where it belongs in (N, K, X, L), or add its K sets to (N, 1, X, L)."""
        target = target[samples].permute(3, 1, 0, 2)
        shared = target.shape[1] != self.sets
        if self.cells is None:
            target[times] = chunk.sum(1, keepdim=True) if shared else chunk
        elif not shared:
            target[self.cells[times], self.each_set] = chunk
        else:
            target = target[:, 0]
            for cells, part in zip(self.cells[times].unbind(1), chunk.unbind(1), strict=True):
                target[cells] += part  # no cell twice in one order

    def step_sizes(self, times: slice, samples: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Return dt (T, K, N, E) before and after softplus."""
        raw = self.read(self.delta, times, samples)
        if self.delta_bias is not None:
            raw = raw + self.delta_bias
        return raw, F.softplus(raw) if self.delta_softplus else raw


def _run_chunk(
    scan: ScanArguments,
    x: torch.Tensor,
    dt: torch.Tensor,
    B: torch.Tensor,
    h: torch.Tensor,
    decay: torch.Tensor,
    states: torch.Tensor,
) -> torch.Tensor:
    """Fill decay and states of one chunk, h (K, N, S, E) before it; return the state after it, a view of states."""
    torch.mul(dt.unsqueeze(-2), scan.exponent, out=decay).exp2_()
    torch.mul((dt * x).unsqueeze(-2), B.unsqueeze(-1), out=states)
    for a, state in zip(decay.unbind(0), states.unbind(0), strict=True):
        h = state.addcmul_(a, h)
    return h


def scan_forward(
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
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return y and the last state as `scan_torch`, and the states at the starts of the chunks, (chunks, K, N, S, E)."""
    scan = ScanArguments(u, delta, A, B, C, D, delta_bias, orders, delta_softplus, reduction)
    y = _empty_channels_last(delta if reduction == "none" else delta[:, :1])
    if reduction != "none" and orders is not None:
        y.zero_()
    starts = u.new_empty((len(scan.chunks()), scan.sets, scan.batch, scan.state, scan.channels))
    last = u.new_empty((scan.sets, scan.batch, scan.state, scan.channels))
    for samples in scan.sample_groups():
        h = torch.zeros_like(last[:, samples])
        for index, times in enumerate(scan.chunks()):
            x, Bt, Ct = (scan.read(m, times, samples) for m in (scan.u, scan.B, scan.C))
            dt = scan.step_sizes(times, samples)[1]
            starts[index, :, samples] = h
            decay, states = (scan.array(name, times, samples) for name in ("decay", "states"))
            h = _run_chunk(scan, x, dt, Bt, h, decay, states).clone()
            part = torch.matmul(Ct.unsqueeze(-2), states).squeeze(-2)  # (T, K, N, E)
            if scan.D is not None:
                part.addcmul_(scan.D, x)
            scan.write(y, part, times, samples)
        last[:, samples] = h
    if reduction == "mean":
        y /= scan.sets
    return _in_order_of(y, u), last.permute(1, 0, 3, 2).contiguous(), starts


class _Gradients:
    """Gradients of a scan's arguments, filled chunk by chunk from the last to the first."""

    def __init__(self, scan: ScanArguments) -> None:
        self.u, self.delta, self.B, self.C = (_empty_channels_last(m) for m in (scan.u, scan.delta, scan.B, scan.C))
        if scan.u.shape[1] != scan.sets:
            self.u.zero_()
        self.A = torch.zeros_like(scan.A[:, 0])  # (K, S, E)
        self.D = None if scan.D is None else torch.zeros_like(scan.D[:, 0])
        self.delta_bias = None if scan.delta_bias is None else torch.zeros_like(scan.delta_bias[:, 0])

    def add_chunk(
        self,
        scan: ScanArguments,
        g: torch.Tensor,
        carry: torch.Tensor,
        start: torch.Tensor,
        times: slice,
        samples: slice,
    ) -> None:
        """
        Take in one chunk.

        Args:
            g: gradient of y, (T, K or 1, N, E).
            carry: gradient of the state after the chunk, (K, N, S, E); becomes that of the state before it.
            start: state before the chunk.
        """
        x, Bt, Ct = (scan.read(m, times, samples) for m in (scan.u, scan.B, scan.C))
        raw, dt = scan.step_sizes(times, samples)
        decay, states, grad = (scan.array(name, times, samples) for name in ("decay", "states", "grad"))
        _run_chunk(scan, x, dt, Bt, start, decay, states)
        # A row times a transposed matrix: PyTorch's product of matrix and column is eight times slower.
        scan.write(self.C, torch.matmul(g.unsqueeze(-2), states.transpose(-1, -2)).squeeze(-2), times, samples)
        torch.mul(g.unsqueeze(-2), Ct.unsqueeze(-1), out=grad)  # then, in place, the gradient of every state
        steps, decays = grad.unbind(0), decay.unbind(0)
        steps[-1].add_(carry)
        for t in reversed(range(len(steps) - 1)):
            steps[t].addcmul_(decays[t + 1], steps[t + 1])
        torch.mul(steps[0], decays[0], out=carry)
        grad_x = torch.matmul(Bt.unsqueeze(-2), grad).squeeze(-2)  # gradient of dt u
        grad_B = torch.matmul((dt * x).unsqueeze(-2), grad.transpose(-1, -2)).squeeze(-2)
        scan.write(self.B, grad_B, times, samples)
        # d decay_t / d (dt A) = decay_t, and decay_t multiplies the state before t.
        grad.mul_(decay)
        grad[0].mul_(start)
        grad[1:].mul_(states[:-1])
        grad_dt = torch.mul(grad, scan.A, out=decay).sum(-2).addcmul_(grad_x, x)
        self.A += grad.mul_(dt.unsqueeze(-2)).sum(0).sum(1)
        if scan.delta_softplus:
            grad_dt = torch.ops.aten.softplus_backward(grad_dt, raw, 1, 20)
        scan.write(self.delta, grad_dt, times, samples)
        if self.delta_bias is not None:
            self.delta_bias += grad_dt.sum(0).sum(1)
        grad_x.mul_(dt)
        if self.D is not None:
            self.D += (g * x).sum(0).sum(1)
            grad_x.addcmul_(scan.D, g)
        scan.write(self.u, grad_x, times, samples)


def scan_backward(
    grad_y: torch.Tensor,
    grad_last: torch.Tensor,
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None,
    delta_bias: torch.Tensor | None,
    orders: torch.Tensor | None,
    starts: torch.Tensor,
    delta_softplus: bool,
    reduction: str,
) -> tuple[torch.Tensor | None, ...]:
    """Gradients of u, delta, A, B, C, D and delta_bias; ``starts`` as `scan_forward` returns them."""
    scan = ScanArguments(u, delta, A, B, C, D, delta_bias, orders, delta_softplus, reduction)
    grad_y = _channels_last(grad_y / scan.sets if reduction == "mean" else grad_y)
    grads = _Gradients(scan)
    for samples in scan.sample_groups():
        carry = grad_last[samples].permute(1, 0, 3, 2).clone(memory_format=torch.contiguous_format)
        for index, times in reversed(list(enumerate(scan.chunks()))):
            g = scan.read(grad_y, times, samples)
            grads.add_chunk(scan, g, carry, starts[index, :, samples], times, samples)
    like = zip((grads.u, grads.delta, grads.B, grads.C), (u, delta, B, C), strict=True)
    grad_u, grad_delta, grad_B, grad_C = (_in_order_of(grad, m) for grad, m in like)
    return grad_u, grad_delta, grads.A.transpose(1, 2).contiguous(), grad_B, grad_C, grads.D, grads.delta_bias
