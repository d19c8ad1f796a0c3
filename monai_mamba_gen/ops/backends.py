"""
The ways to compute a selective scan, and the choice among them.

Every backend is one function of the same form, which this file describes once. u (N, K, E, L), or (N, 1, E, L) where
the K sets share one input; delta (N, K, E, L); A (K, E, S); B and C (N, K, S, L); D and delta_bias (K, E) or None;
orders (K, L) int64 or None: set k visits cell ``orders[k, t]`` at time t, while all tensors lie in the order of cells.
The result is y, (N, K, E, L), or (N, 1, E, L) summed or averaged over the sets, and the state after the last step,
(N, K, E, S).
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .mamba_ssm_scan import mamba_ssm_problem, scan_mamba_ssm
from .native_module import native_problem
from .native_scan import scan_native
from .reference import scan_reference
from .scan_inputs import require_permutations
from .torch_scan import scan_torch
from .triton_scan import scan_triton, triton_problem

__all__ = ["BACKENDS", "BACKEND_VARIABLE", "ScanBackend", "run_scan", "scan_backends"]

BACKEND_VARIABLE = "MONAI_MAMBA_GEN_BACKEND"


@dataclass(frozen=True)
class ScanBackend:
    """
    A way to compute the selective scan.

    Args:
        name: what ``backend=`` calls it.
        function: takes (u, delta, A, B, C, D, delta_bias, orders, delta_softplus, reduction), returns (y, last state).
        device_problem: returns why it cannot be used on a device (None: on any device here), or None when it can.
        input_problem: returns why it cannot take these inputs (u, A), or None when it can.
    """

    name: str
    function: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    device_problem: Callable[[torch.device | None], str | None] = lambda device: None
    input_problem: Callable[[torch.Tensor, torch.Tensor], str | None] = lambda u, A: None


def _exporting() -> bool:
    return torch.jit.is_tracing() or torch.compiler.is_exporting()


def _kernel_input_problem(u: torch.Tensor, A: torch.Tensor) -> str | None:
    """Limits that all compiled kernels have."""
    if u.dtype == torch.float64:
        return "the kernel computes in float32, but u is float64"
    if u.shape[-1] >= 2**31:
        return f"the kernel takes fewer than 2**31 steps, u has {u.shape[-1]}"
    if _exporting():
        return "a model that is traced or exported must not depend on the kernel"
    if torch._C._are_functorch_transforms_active():
        return "the kernel has no rules for the transforms of torch.func"
    return None


def _mamba_ssm_input_problem(u: torch.Tensor, A: torch.Tensor) -> str | None:
    if A.shape[-1] > 256:
        return f"the kernel takes at most 256 states, A has {A.shape[-1]}"
    if torch.compiler.is_compiling():
        return "the kernel is no operator that torch.compile knows"
    return _kernel_input_problem(u, A)


# Fastest first. The reference is last: it can be named, and is never chosen by itself.
BACKENDS = (
    ScanBackend("native", scan_native, native_problem, _kernel_input_problem),
    ScanBackend("mamba_ssm", scan_mamba_ssm, mamba_ssm_problem, _mamba_ssm_input_problem),
    ScanBackend("triton", scan_triton, triton_problem, _kernel_input_problem),
    ScanBackend("torch", scan_torch),
    ScanBackend("reference", scan_reference),
)


def scan_backends(device: torch.device | str | None = None) -> list[str]:
    """
    Names of the scan backends usable here, fastest first.

    Args:
        device: only those usable on this device; default any device of this machine.

    Example:
        >>> scan_backends("cpu")[-2:]
        ['torch', 'reference']
    """
    device = None if device is None else torch.device(device)
    return [backend.name for backend in BACKENDS if backend.device_problem(device) is None]


@functools.cache
def _say_what_is_missing(device_type: str) -> None:
    """Tell, once, when the scan runs in PyTorch because no kernel can be used on such a device."""
    kernels = {"cpu": ("native",), "cuda": ("mamba_ssm", "triton")}.get(device_type, ())
    problems = {b.name: b.device_problem(torch.device(device_type)) for b in BACKENDS if b.name in kernels}
    if problems and all(problems.values()):
        reasons = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
        logging.getLogger("monai_mamba_gen").warning(
            f"selective scans on {device_type} run in PyTorch (backend 'torch'), exact but several times slower than a "
            f"kernel; {reasons}"
        )


def _constant_when_compiled(function: Callable) -> Callable:
    """
    Let torch.compile take what the function returns as a constant: it need not look into imports and the environment.

    What ``torch.compiler.assume_constant_result`` does, without importing the compiler.
    """
    function._dynamo_marked_constant = True
    return function


@_constant_when_compiled
def _device_problem(name: str, device_type: str) -> str | None:
    (backend,) = (b for b in BACKENDS if b.name == name)
    return backend.device_problem(torch.device(device_type))


@_constant_when_compiled
def _default_name() -> str | None:
    return os.environ.get(BACKEND_VARIABLE) or None


def _choose(name: str | None, u: torch.Tensor, A: torch.Tensor) -> ScanBackend:
    source = "backend"
    if name is None and (name := _default_name()):
        source = BACKEND_VARIABLE
    for backend in BACKENDS:
        if name is not None and name != backend.name:
            continue
        problem = _device_problem(backend.name, u.device.type) or backend.input_problem(u, A)
        if problem is None:
            if name is None and backend.name == "torch" and not torch.compiler.is_compiling():
                _say_what_is_missing(u.device.type)
            return backend
        if name is not None:
            raise ValueError(f"{source}={name!r} cannot be used here: {problem}; usable: {scan_backends(u.device)}")
    raise ValueError(f"{source}={name!r} is unknown; allowed: None or one of {[b.name for b in BACKENDS]}")


def run_scan(
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
    backend: str | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run a checked scan, all tensors of one dtype, by the named backend or the fastest that takes the inputs."""
    chosen = _choose(backend, u, A)
    if u.numel() == 0 or A.shape[-1] == 0:
        chosen = BACKENDS[-1]  # nothing to compute, and no kernel need know it
    checks_orders = chosen.name == "native" or u.device.type != "cpu" or _exporting() or torch.compiler.is_compiling()
    if orders is not None and not checks_orders:
        require_permutations(orders)
    with torch.autocast(u.device.type, enabled=False):
        return chosen.function(u, delta, A, B, C, D, delta_bias, orders, delta_softplus, reduction)
