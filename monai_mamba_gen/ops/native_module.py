"""
The compiled part of the package: loading it, its instruction sets, and calling it.

The module holds no torch symbol: it takes addresses and strides. It is loaded after torch, so that both use the one
OpenMP library that torch brings.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib
import os
import struct
import threading
import time
from collections.abc import Iterator
from types import ModuleType

import torch

__all__ = [
    "call_native",
    "current_instruction_set",
    "exp_throughput",
    "instruction_set",
    "instruction_sets",
    "native_problem",
]

ISA_VARIABLE = "MONAI_MAMBA_GEN_ISA"
_chosen: contextvars.ContextVar[str | None] = contextvars.ContextVar("instruction_set", default=None)
_MODULE = f"{__package__}._native"


@functools.cache
def _load() -> ModuleType | str:
    """Return the compiled module, or why there is none."""
    try:
        return importlib.import_module(_MODULE)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError):
            return (
                "the package was installed without its compiled part, for want of a C compiler or of Python's headers; "
                "install both (gcc or clang, python3-dev), then install the package again with "
                "pip install --no-cache-dir --force-reinstall --no-deps"
            )
        return f"the compiled part cannot be loaded ({error})"


def native_problem(device: torch.device | None = None) -> str | None:
    """Return why the C kernel cannot be used on ``device`` (default: anywhere here), or None when it can."""
    if device is not None and device.type != "cpu":
        return f"the C kernel runs on the CPU only, not on {device.type}"
    module = _load()
    return module if isinstance(module, str) else None


def instruction_sets() -> list[str]:
    """Names of the kernel's instruction sets that this processor has, fastest first; empty without the kernel."""
    module = _load()
    return [] if isinstance(module, str) else list(module.USABLE_LEVELS)


def _check_level(name: str, source: str) -> str:
    if name not in instruction_sets():
        raise ValueError(f"{source} must be one of {instruction_sets()} on this machine, got {name!r}")
    return name


@contextlib.contextmanager
def instruction_set(name: str) -> Iterator[None]:
    """
    Let the C kernel use another instruction set than the fastest, inside a ``with``.

    Outside of Python the environment variable ``MONAI_MAMBA_GEN_ISA`` does the same.

    Args:
        name: one of `instruction_sets`.

    Raises:
        ValueError: when the processor does not have it.

    Example:
        >>> with instruction_set("base"):
        ...     print(current_instruction_set())
        base
    """
    token = _chosen.set(_check_level(name, "instruction set"))
    try:
        yield
    finally:
        _chosen.reset(token)


def current_instruction_set() -> str:
    """Name of the instruction set that the C kernel uses here and now."""
    if _chosen.get() is not None:
        return _chosen.get()
    wanted = os.environ.get(ISA_VARIABLE)
    return _check_level(wanted, ISA_VARIABLE) if wanted else instruction_sets()[0]


def exp_throughput(seconds: float = 0.05, threads: int | None = None) -> float:
    """
    Measure how many exponentials a second this processor computes out of its first-level cache.

    By the kernel's own exponential, a polynomial of degree 6.

    Args:
        seconds: how long to measure, about.
        threads: number of threads; default torch's.

    Returns:
        Exponentials a second, all threads together.
    """
    module, threads = _load(), threads or torch.get_num_threads()
    level = module.LEVELS.index(current_instruction_set())
    rounds = 256
    while True:
        workers = [threading.Thread(target=module.exponentials, args=(level, rounds)) for _ in range(threads)]
        start = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        taken = time.perf_counter() - start
        if taken >= seconds:
            return 2048 * rounds * threads / taken
        rounds *= 2


@functools.cache
def _packer(module: ModuleType) -> struct.Struct:
    return struct.Struct(f"={len(module.FIELDS)}q")


def call_native(fields: dict[str, int]) -> None:
    """
    Run the kernel.

    Args:
        fields: values of the module's FIELDS by name (scan.h explains them); those left out are 0.

    Raises:
        ValueError: when a row of the orders is no permutation.
        MemoryError: when there is no memory for scratch space.
    """
    module = _load()
    fields["threads"] = torch.get_num_threads()
    fields["level"] = module.LEVELS.index(current_instruction_set())
    values = [fields.pop(name, 0) for name in module.FIELDS]
    if fields:
        raise RuntimeError(f"the compiled part does not know {sorted(fields)}; install the package again")
    status = module.run(_packer(module).pack(*values))
    if status == 1:
        raise MemoryError("no memory for the scratch space of the selective scan")
    if status == 2:
        raise ValueError("orders must have a permutation of 0..L-1 in every row")
