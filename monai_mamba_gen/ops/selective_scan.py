"""One selective scan, several backends; this file is the list of backends and the choice among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .mamba_ssm_scan import mamba_ssm_problem, selective_scan_mamba_ssm
from .reference import selective_scan_ref
from .scan_inputs import check_scan_inputs
from .torch_scan import selective_scan_torch

__all__ = ["ScanBackend", "scan_backends", "selective_scan"]


@dataclass(frozen=True)
class ScanBackend:
    """
    A way to compute the selective scan.

    Args:
        name: what ``backend=`` calls it.
        function: takes the arguments of `selective_scan` but ``backend``.
        device_problem: returns why it cannot be used on a device (None: on any device here), or None when it can.
        input_problem: returns why it cannot take these inputs, or None when it can.
    """

    name: str
    function: Callable[..., torch.Tensor | tuple[torch.Tensor, torch.Tensor]]
    device_problem: Callable[[torch.device | None], str | None] = lambda device: None
    input_problem: Callable[[torch.Tensor, torch.Tensor], str | None] = lambda u, A: None


def _mamba_ssm_input_problem(u: torch.Tensor, A: torch.Tensor) -> str | None:
    if u.dtype == torch.float64:
        return "the kernel computes in float32, but u is float64"
    if A.shape[1] > 256:
        return f"the kernel takes at most 256 states, A has {A.shape[1]}"
    return "u is empty" if u.numel() == 0 else None


# Fastest first. The reference is last: it can be named, and is never chosen by itself.
_BACKENDS = (
    ScanBackend("mamba_ssm", selective_scan_mamba_ssm, mamba_ssm_problem, _mamba_ssm_input_problem),
    ScanBackend("torch", selective_scan_torch),
    ScanBackend("reference", selective_scan_ref),
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
    return [backend.name for backend in _BACKENDS if backend.device_problem(device) is None]


def _choose(name: str | None, u: torch.Tensor, A: torch.Tensor) -> ScanBackend:
    for backend in _BACKENDS:
        if name is not None and name != backend.name:
            continue
        problem = backend.device_problem(u.device) or backend.input_problem(u, A)
        if problem is None:
            return backend
        if name is not None:
            raise ValueError(f"backend={name!r} cannot be used here: {problem}; usable: {scan_backends(u.device)}")
    raise ValueError(f"backend={name!r} is unknown; allowed: None or one of {[b.name for b in _BACKENDS]}")


def selective_scan(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None = None,
    z: torch.Tensor | None = None,
    delta_bias: torch.Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    backend: str | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """
    Selective state-space scan (S6) over the last dimension.

    Mamba (Gu & Dao 2023), equation 2: ``h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t``, ``y_t = C_t h_t + D u_t``, gated by
    ``silu(z)`` where z is given. Same arguments and meaning as ``selective_scan_fn`` of mamba-ssm. The arithmetic is
    float32 (float64 for float64 inputs) whatever the inputs' dtype, inside autocast too.

    Args:
        u: input, (N, D, L).
        delta: step sizes before bias and softplus, (N, D, L).
        A: state matrix, (D, S), real, negative for a decaying state.
        B: input matrix, (N, S, L), or (N, G, S, L) for G groups of D / G channels.
        C: output matrix, as B.
        D: skip weights, (D,).
        z: gate, (N, D, L).
        delta_bias: added to delta, (D,).
        delta_softplus: whether delta passes through a softplus.
        return_last_state: whether to return the state after the last step too.
        backend: name of a backend, see `scan_backends`; default the fastest that takes the inputs.

    Returns:
        y (N, D, L) in u's dtype; with ``return_last_state`` also the state (N, D, S).

    Raises:
        ValueError: when shapes, dtypes or devices do not fit, or the named backend cannot be used (and why).

    Example:
        >>> u, delta = torch.randn(2, 4, 9), torch.rand(2, 4, 9)
        >>> A, B, C = -torch.rand(4, 3), torch.randn(2, 3, 9), torch.randn(2, 3, 9)
        >>> selective_scan(u, delta, A, B, C, delta_softplus=True).shape
        torch.Size([2, 4, 9])
    """
    check_scan_inputs(u, delta, A, B, C, D, z, delta_bias)
    chosen = _choose(backend, u, A)
    with torch.autocast(u.device.type, enabled=False):
        return chosen.function(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state)
