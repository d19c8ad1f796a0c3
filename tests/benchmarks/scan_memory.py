"""
Memory of one scan above its inputs, in bytes of u. Started by scan.py, once for each case in a fresh process.

Inputs, and the gradient of the output, are allocated and written before; so are libraries and threads, by a scan of a
small input; what that scan has left in the allocator is given back to the system. The peak is the kernel's own
high-water mark of the resident set, set back just before the scan, where Linux allows that; else samples every 2 ms.
"""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from scan_contenders import Shape, draw_inputs, ours

__all__ = ["measure_in_child"]


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _high_water() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def _sampled_growth(run: Callable[[], object]) -> int:
    before, peak, done = _resident(), [0], threading.Event()

    def sample() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], _resident())

    sampler = threading.Thread(target=sample)
    sampler.start()
    result = run()
    done.set()
    sampler.join()
    peak[0] = max(peak[0], _resident())
    del result
    return peak[0] - before


def _growth(run: Callable[[], object]) -> int:
    """Bytes by which the resident set grew at most during a call, results included."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back to what is resident now
    except OSError:
        return _sampled_growth(run)
    before = _resident()
    result = run()
    growth = _high_water() - before
    del result
    return growth


def _case(shape: Shape, train: bool, backend: str) -> Callable[[], object]:
    inputs = draw_inputs(shape)
    scan = ours(inputs, backend)
    leaves = [leaf.requires_grad_(train) for leaf in scan.leaves]
    gradient = torch.ones_like(inputs["u"])

    def run() -> object:
        with torch.set_grad_enabled(train):
            y = scan.function(*leaves)
        return (y.detach(), torch.autograd.grad(y, leaves, gradient)) if train else y

    return run


def measure(shape: Shape, train: bool, backend: str) -> float:
    """Peak growth of this process in bytes of u; forward pass only, or forward and backward."""
    run = _case(shape, train, backend)
    _case(Shape(1, shape.sets, 16, 64, shape.state), train, backend)()
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    return _growth(run) / (4 * shape.batch * shape.sets * shape.channels * shape.length)


def measure_in_child(shape: Shape, train: bool, threads: int, backend: str = "native") -> float:
    """`measure` in a fresh process."""
    command = [sys.executable, __file__, backend, str(int(train)), str(threads), *map(str, shape)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(result.stderr.strip().splitlines()[-1])
    return float(result.stdout.split()[-1])


if __name__ == "__main__":
    _backend, _train, _threads, *_sizes = sys.argv[1:]
    torch.set_num_threads(int(_threads))
    print(measure(Shape(*map(int, _sizes)), bool(int(_train)), _backend))
