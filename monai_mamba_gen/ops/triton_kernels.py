"""
Triton kernels of the selective scan; `triton_scan` imports this module when a kernel is first needed, nothing else.

One program holds the state of BLOCK_E channels of one batch element and one set in registers, a (BLOCK_E, BLOCK_S)
tile, and walks through time step by step, reading cell ``orders[k, t]`` of the unpermuted tensors. No program writes
where another one writes, and none waits for another: results do not depend on how programs are scheduled.

The backward kernel walks the chunks of STEPS steps in reverse. In a chunk it runs the recurrence again from the state
that the forward kernel stored at the chunk's start, and leaves the state before every step in a scratch of global
memory, (STEPS, BLOCK_E, BLOCK_S) for each program, small enough to stay in the cache. Registers cannot be indexed by a
step in Triton, and running the recurrence backwards divides by decays that may be zero. Then it sweeps back.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["INTERPRETED", "scan_backward_kernel", "scan_forward_kernel"]

_LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _place(sets, channels, states, BLOCK_E: tl.constexpr, BLOCK_S: tl.constexpr):
    """
    Batch element, set, channel block, channels and states of this program, which of them exist, and their tile's.

    All are 64 bit, so that offsets cannot wrap.
    """
    program = tl.program_id(0).to(tl.int64)
    blocks = tl.cdiv(channels, BLOCK_E)
    block = program % blocks
    e = block * BLOCK_E + tl.arange(0, BLOCK_E)
    s = tl.arange(0, BLOCK_S).to(tl.int64)
    in_e, in_s = e < channels, s < states
    in_tile = in_e[:, None] & in_s[None, :]
    return program // blocks // sets, program // blocks % sets, block, e, s, in_e, in_s, in_tile


@triton.jit
def _cell(orders, k, t, length):
    """The cell that set k visits at time t."""
    if orders is None:
        cell = k * 0 + t
    else:
        cell = tl.load(orders + k * length + t)
    return cell


@triton.jit
def _softplus(x):
    """Softplus and its derivative; log1p by its series in e / (2 + e), exact to the last bits for every x."""
    e = tl.exp(-tl.abs(x))  # in (0, 1], so that e / (2 + e) <= 1 / 3
    r = e / (e + 2.0)
    q = r * r
    series = 1 / 9 + q * (1 / 11 + q * (1 / 13))
    series = 1.0 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * series)))
    return tl.maximum(x, 0.0) + 2.0 * r * series, tl.where(x >= 0, 1.0, e) / (1.0 + e)


@triton.jit
def _channel_vector(vector, row, in_e, BLOCK_E: tl.constexpr):
    """Channels of a (K, E) vector; zeros for None."""
    if vector is None:
        values = tl.zeros([BLOCK_E], tl.float32)
    else:
        values = tl.load(vector + row, mask=in_e, other=0.0)
    return values


@triton.jit
def _step(u_at, delta_at, B_at, cell, u_l, delta_l, B_l, shift, rate, in_e, in_s, SOFTPLUS: tl.constexpr):
    """dt, its derivative in delta, u and B at a cell; then the state's decay and the input's share of the new state."""
    dt = tl.load(delta_at + cell * delta_l, mask=in_e, other=0.0) + shift
    slope = tl.full(dt.shape, 1.0, tl.float32)
    if SOFTPLUS:
        dt, slope = _softplus(dt)
    x = tl.load(u_at + cell * u_l, mask=in_e, other=0.0)
    b = tl.load(B_at + cell * B_l, mask=in_s, other=0.0)
    return dt, slope, x, b, tl.exp2(dt[:, None] * rate), (dt * x)[:, None] * b[None, :]


@triton.jit
def scan_forward_kernel(
    u, delta, A, B, C, D, bias, orders, y, last, starts,
    sets, channels, states, length,
    u_n, u_k, u_e, u_l, delta_n, delta_k, delta_e, delta_l,
    B_n, B_k, B_s, B_l, C_n, C_k, C_s, C_l, y_n, y_k, y_e, y_l,
    SOFTPLUS: tl.constexpr, STEPS: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_S: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """
    Write y, the last states (N, K, E, S) and, unless ``starts`` is None, those at chunk starts (N, K, chunks, E, S).

    A, D, bias and orders are contiguous; of the rest, ``x_n`` is the stride of dimension n of x.
    """
    n, k, _block, e, s, in_e, in_s, in_tile = _place(sets, channels, states, BLOCK_E, BLOCK_S)
    row, tile = k * channels + e, e[:, None] * states + s[None, :]
    rate = tl.load(A + k * channels * states + tile, mask=in_tile, other=0.0) * _LOG2E
    shift, skip = _channel_vector(bias, row, in_e, BLOCK_E), _channel_vector(D, row, in_e, BLOCK_E)
    u_at, delta_at = u + n * u_n + k * u_k + e * u_e, delta + n * delta_n + k * delta_k + e * delta_e
    B_at, C_at = B + n * B_n + k * B_k + s * B_s, C + n * C_n + k * C_k + s * C_s
    y_at = y + n * y_n + k * y_k + e * y_e
    chunks = tl.cdiv(length, STEPS)

    h = tl.zeros([BLOCK_E, BLOCK_S], tl.float32)
    for t in tl.range(0, length, num_stages=STAGES):
        if starts is not None:
            start = starts + ((n * sets + k) * chunks + t // STEPS) * channels * states
            tl.store(start + tile, h, mask=in_tile & (t % STEPS == 0))
        cell = _cell(orders, k, t, length)
        _dt, _slope, x, _b, decay, fresh = _step(
            u_at, delta_at, B_at, cell, u_l, delta_l, B_l, shift, rate, in_e, in_s, SOFTPLUS
        )
        c = tl.load(C_at + cell * C_l, mask=in_s, other=0.0)
        h = decay * h + fresh
        tl.store(y_at + cell * y_l, tl.sum(h * c[None, :], axis=1) + skip * x, mask=in_e)
    tl.store(last + (n * sets + k) * channels * states + tile, h, mask=in_tile)


@triton.jit
def _zero_sums(BLOCK_E: tl.constexpr, BLOCK_S: tl.constexpr):
    vector = tl.zeros([BLOCK_E], tl.float32)
    return tl.zeros([BLOCK_E, BLOCK_S], tl.float32), vector, vector


@triton.jit
def _fill_scratch(
    scratch_at, h, first, steps, orders, k, length, u_at, delta_at, B_at, u_l, delta_l, B_l,
    shift, rate, in_e, in_s, SOFTPLUS: tl.constexpr, TILE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Run the recurrence through a chunk from the state ``h``, and store the state before every step."""
    for i in tl.range(0, steps, num_stages=STAGES):
        tl.store(scratch_at + i * TILE, h)
        cell = _cell(orders, k, first + i, length)
        _dt, _slope, _x, _b, decay, fresh = _step(
            u_at, delta_at, B_at, cell, u_l, delta_l, B_l, shift, rate, in_e, in_s, SOFTPLUS
        )
        h = decay * h + fresh


@triton.jit
def scan_backward_kernel(
    grad_y, grad_last, u, delta, A, B, C, D, bias, orders, starts, scratch,
    grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_bias, batch, sets, channels, states, length,
    gy_n, gy_k, gy_e, gy_l, u_n, u_k, u_e, u_l, delta_n, delta_k, delta_e, delta_l,
    B_n, B_k, B_s, B_l, C_n, C_k, C_s, C_l, gu_n, gu_k, gu_e, gu_l, gd_n, gd_k, gd_e, gd_l,
    SOFTPLUS: tl.constexpr, STEPS: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_S: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """
    Write every set's gradients of u and delta (strided), and parts to be summed by the caller.

    The parts: grad_A (N, K, E, S), grad_D and grad_bias (N, K, E); grad_B and grad_C (blocks of channels, N, L, K, S).
    ``grad_last`` is contiguous or None; ``scratch`` has STEPS * BLOCK_E * BLOCK_S elements for each program.
    """
    n, k, block, e, s, in_e, in_s, in_tile = _place(sets, channels, states, BLOCK_E, BLOCK_S)
    row, tile = k * channels + e, e[:, None] * states + s[None, :]
    rate = tl.load(A + k * channels * states + tile, mask=in_tile, other=0.0)
    shift, skip = _channel_vector(bias, row, in_e, BLOCK_E), _channel_vector(D, row, in_e, BLOCK_E)
    u_at, delta_at = u + n * u_n + k * u_k + e * u_e, delta + n * delta_n + k * delta_k + e * delta_e
    gy_at, gu_at = grad_y + n * gy_n + k * gy_k + e * gy_e, grad_u + n * gu_n + k * gu_k + e * gu_e
    gd_at = grad_delta + n * gd_n + k * gd_k + e * gd_e
    B_at, C_at = B + n * B_n + k * B_k + s * B_s, C + n * C_n + k * C_k + s * C_s
    matrix_at = ((block * batch + n) * length * sets + k) * states + s  # of cell 0 in grad_B and grad_C
    in_block = tl.arange(0, BLOCK_E)[:, None] * BLOCK_S + tl.arange(0, BLOCK_S)[None, :]
    scratch_at = scratch + tl.program_id(0).to(tl.int64) * (STEPS * BLOCK_E * BLOCK_S) + in_block
    chunks = tl.cdiv(length, STEPS)
    g = tl.zeros([BLOCK_E, BLOCK_S], tl.float32)  # gradient of the state after the step at hand
    if grad_last is not None:
        g = tl.load(grad_last + (n * sets + k) * channels * states + tile, mask=in_tile, other=0.0)
    sum_A, sum_D, sum_bias = _zero_sums(BLOCK_E, BLOCK_S)
    for turn in range(0, chunks):
        chunk = chunks - 1 - turn
        first = chunk * STEPS
        steps = tl.minimum(STEPS, length - first)
        h = tl.load(starts + ((n * sets + k) * chunks + chunk) * channels * states + tile, mask=in_tile, other=0.0)
        _fill_scratch(
            scratch_at, h, first, steps, orders, k, length, u_at, delta_at, B_at, u_l, delta_l, B_l,
            shift, rate * _LOG2E, in_e, in_s, SOFTPLUS, BLOCK_E * BLOCK_S, STAGES,
        )  # fmt: skip
        tl.debug_barrier()  # another thread than the one that wrote may read the scratch
        # Sums of a chunk first, then sums of chunks: rounding grows with the root of both numbers, not of the length.
        part_A, part_D, part_bias = _zero_sums(BLOCK_E, BLOCK_S)
        for j in tl.range(0, steps, num_stages=STAGES):
            i = steps - 1 - j
            cell = _cell(orders, k, first + i, length)
            dt, slope, x, b, decay, fresh = _step(
                u_at, delta_at, B_at, cell, u_l, delta_l, B_l, shift, rate * _LOG2E, in_e, in_s, SOFTPLUS
            )
            c = tl.load(C_at + cell * C_l, mask=in_s, other=0.0)
            gy = tl.load(gy_at + cell * gy_l, mask=in_e, other=0.0)
            kept = decay * tl.load(scratch_at + i * (BLOCK_E * BLOCK_S))
            g += gy[:, None] * c[None, :]
            at = matrix_at + cell * sets * states
            tl.store(grad_C + at, tl.sum(gy[:, None] * (kept + fresh), axis=0), mask=in_s)
            tl.store(grad_B + at, tl.sum((dt * x)[:, None] * g, axis=0), mask=in_s)
            g_input = tl.sum(g * b[None, :], axis=1)  # gradient of dt * u
            tl.store(gu_at + cell * gu_l, g_input * dt + gy * skip, mask=in_e)
            g_exponent = g * kept  # gradient of dt * A
            g_delta = (tl.sum(g_exponent * rate, axis=1) + g_input * x) * slope
            tl.store(gd_at + cell * gd_l, g_delta, mask=in_e)
            part_A, part_D, part_bias = part_A + g_exponent * dt[:, None], part_D + gy * x, part_bias + g_delta
            g *= decay
        sum_A, sum_D, sum_bias = sum_A + part_A, sum_D + part_D, sum_bias + part_bias
        tl.debug_barrier()  # the next chunk overwrites the scratch
    tl.store(grad_A + (n * sets + k) * channels * states + tile, sum_A, mask=in_tile)
    tl.store(grad_D + n * sets * channels + row, sum_D, mask=in_e)
    tl.store(grad_bias + n * sets * channels + row, sum_bias, mask=in_e)


INTERPRETED = not isinstance(scan_forward_kernel, triton.JITFunction)
