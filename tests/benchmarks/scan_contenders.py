"""
The selective scans that are compared, each with its inputs in the memory layout it likes best.

The peers are mambapy 1.2.0 (MIT), ``pip install --no-deps mambapy==1.2.0``, and mamba-ssm's ``selective_scan_ref``.
"""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from scan_timing import Contender

from monai_mamba_gen.ops import native_module, selective_scan

__all__ = [
    "Scan",
    "Shape",
    "draw_inputs",
    "mambapy_all",
    "mambapy_each",
    "mambapy_module",
    "native",
    "ours",
    "peer_ref",
]


class Shape(NamedTuple):
    """Sizes of a scan: batch N, sets K, channels a set E, length L, states S."""

    batch: int
    sets: int
    channels: int
    length: int
    state: int

    @property
    def states(self) -> int:
        """State steps, each of which takes one exponential."""
        return math.prod(self)


def draw_inputs(shape: Shape, seed: int = 0) -> dict[str, torch.Tensor]:
    """Arguments of `selective_scan` as Mamba's initialisation makes them: A = -1..-S, steps of 1e-3..0.1, D = 1."""
    n, k, e, length, s = shape
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator)

    steps = torch.exp(torch.empty(k * e).uniform_(math.log(1e-3), math.log(0.1), generator=generator))
    return {
        "u": draw(n, k * e, length),
        "delta": 0.5 * draw(n, k * e, length),
        "A": -torch.arange(1.0, s + 1).repeat(k * e, 1),
        "B": draw(n, k, s, length),
        "C": draw(n, k, s, length),
        "D": torch.ones(k * e),
        "delta_bias": steps + torch.log(-torch.expm1(-steps)),  # inverse of softplus
    }


@dataclass(frozen=True)
class Scan:
    """
    A scan and its inputs.

    ``function(*leaves)`` returns one tensor or several; ``standard`` brings them into (N, K * E, L), so that contenders
    can be compared; ``context`` is entered around every call.
    """

    name: str
    function: Callable[..., torch.Tensor | list[torch.Tensor]]
    leaves: Sequence[torch.Tensor]
    standard: Callable[[torch.Tensor | list[torch.Tensor]], torch.Tensor] = lambda y: y
    context: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext

    def compute(self) -> torch.Tensor:
        with torch.no_grad(), self.context():
            return self.standard(self.function(*self.leaves))

    def forward(self, warm: bool = True) -> Contender:
        def run() -> None:
            with torch.no_grad(), self.context():
                self.function(*self.leaves)

        return Contender(self.name, run, warm)

    def training(self, warm: bool = True) -> Contender:
        """Forward and backward pass, the gradient in every input."""
        leaves = [leaf.detach().requires_grad_() for leaf in self.leaves]
        gradients: list = []

        def run() -> None:
            with self.context():
                y = self.function(*leaves)
                if not gradients:
                    gradients.append(
                        torch.ones_like(y) if isinstance(y, torch.Tensor) else [torch.ones_like(m) for m in y]
                    )
                torch.autograd.grad(y, leaves, gradients[0])

        return Contender(self.name, run, warm)


def ours(inputs: dict[str, torch.Tensor], backend: str) -> Scan:
    """`selective_scan` by one of its backends."""

    def function(u, delta, A, B, C, D, delta_bias):
        return selective_scan(u, delta, A, B, C, D=D, delta_bias=delta_bias, delta_softplus=True, backend=backend)

    return Scan(f"ours ({backend})", function, list(inputs.values()))


def native(inputs: dict[str, torch.Tensor], level: str) -> Scan:
    """`selective_scan` by the C kernel with one instruction set."""
    scan = ours(inputs, "native")
    return Scan(f"ours ({level})", scan.function, scan.leaves, context=lambda: native_module.instruction_set(level))


def mambapy_module(name: str):
    """A module of mambapy, or an ImportError that says how to get it."""
    try:
        return importlib.import_module(f"mambapy.{name}")
    except ImportError as error:
        raise ImportError(f"{error}; to compare: pip install --no-deps mambapy==1.2.0") from error


def _channel_last(inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """u and delta as (N, L, K, E), B and C as (N, L, K, S), the rest with K and E apart."""
    sets = inputs["B"].shape[1]
    u, delta = (inputs[name].transpose(1, 2).unflatten(2, (sets, -1)).contiguous() for name in ("u", "delta"))
    B, C = (inputs[name].permute(0, 3, 1, 2).contiguous() for name in ("B", "C"))
    A, D, bias = (inputs[name].unflatten(0, (sets, -1)) for name in ("A", "D", "delta_bias"))
    return u, delta, A, B, C, D, bias


def mambapy_all(inputs: dict[str, torch.Tensor]) -> Scan:
    """mambapy's parallel scan over all sets at once."""
    pscan = mambapy_module("pscan").pscan

    def function(u, delta, A, B, C, D, bias):
        dt = F.softplus(delta + bias)
        decay = torch.exp(dt.unsqueeze(-1) * A)  # (N, L, K, E, S)
        drive = dt.unsqueeze(-1) * B.unsqueeze(3) * u.unsqueeze(-1)
        states = pscan(decay.flatten(2, 3), drive.flatten(2, 3)).unflatten(2, u.shape[2:])
        return (states @ C.unsqueeze(-1)).squeeze(-1) + D * u

    def standard(y):
        return y.flatten(2).transpose(1, 2)

    return Scan("mambapy, all sets at once", function, _channel_last(inputs), standard)


def mambapy_each(inputs: dict[str, torch.Tensor]) -> Scan:
    """mambapy's ``MambaBlock.selective_scan`` for one set after the other."""
    scan = mambapy_module("mamba").MambaBlock.selective_scan
    u, delta, A, B, C, D, bias = _channel_last(inputs)
    sets = A.shape[0]
    leaves = [
        m.contiguous()
        for k in range(sets)
        for m in (u[:, :, k], delta[:, :, k], A[k], B[:, :, k], C[:, :, k], D[k], bias[k])
    ]

    def function(*leaves):
        ys = []
        for k in range(sets):
            u, delta, A, B, C, D, bias = leaves[7 * k : 7 * k + 7]
            ys.append(scan(None, u, F.softplus(delta + bias), A, B, C, D))
        return ys

    return Scan("mambapy, set by set", function, leaves, lambda ys: torch.cat(ys, dim=2).transpose(1, 2))


def _written_ref(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False):
    """The structure of mamba-ssm's ``selective_scan_ref``: decay and drive for all times at once, then a loop."""
    dt = delta + delta_bias[:, None]
    dt = F.softplus(dt) if delta_softplus else dt
    B, C = (m.repeat_interleave(u.shape[1] // m.shape[1], dim=1) for m in (B, C))  # (N, D, S, L)
    decay = torch.exp(torch.einsum("ndl,ds->ndls", dt, A))
    drive = torch.einsum("ndl,ndsl,ndl->ndls", dt, B, u)
    state = A.new_zeros(u.shape[0], *A.shape)
    ys = []
    for t in range(u.shape[2]):
        state = decay[:, :, t] * state + drive[:, :, t]
        ys.append(torch.einsum("nds,nds->nd", state, C[..., t]))
    return torch.stack(ys, dim=2) + u * D[:, None]


def peer_ref(inputs: dict[str, torch.Tensor]) -> Scan:
    """mamba-ssm's ``selective_scan_ref`` where it can be imported, else one written the same way."""
    try:
        ref = importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_ref
        name = "selective_scan_ref of mamba-ssm"
    except Exception:  # without its CUDA operator mamba-ssm fails to import in more than one way
        ref, name = _written_ref, "a scan written like selective_scan_ref (mamba-ssm cannot be imported)"

    def function(u, delta, A, B, C, D, delta_bias):
        return ref(u, delta, A, B, C, D, delta_bias=delta_bias, delta_softplus=True)

    return Scan(name, function, list(inputs.values()))
