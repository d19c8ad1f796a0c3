"""
The CUDA kernel of mamba-ssm, where it is installed.

The test is for the compiled operator, not for the package: a package named ``mamba_ssm`` without the kernel exists, and
recent releases of mamba-ssm leave the kernel out unless asked for it.
"""

from __future__ import annotations

import functools
import importlib

import torch

__all__ = ["mamba_ssm_problem", "selective_scan_mamba_ssm"]


@functools.cache
def _interface():
    importlib.import_module("selective_scan_cuda")
    return importlib.import_module("mamba_ssm.ops.selective_scan_interface")


def mamba_ssm_problem(device: torch.device | None = None) -> str | None:
    """Return why the kernel cannot be used on ``device`` (default: anywhere here), or None when it can."""
    if device is not None and device.type != "cuda":
        return f"the kernel runs on CUDA only, not on {device.type}"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    try:
        _interface()
    except ImportError as error:
        return f"the operator selective_scan_cuda of mamba-ssm cannot be imported ({error})"
    return None


def selective_scan_mamba_ssm(
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
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """
    Selective scan by mamba-ssm's CUDA kernel; arguments, shapes and result as `selective_scan`.

    The kernel wants one dtype for u, delta, B, C and z and float32 for the rest; all become float32 here, which is what
    keeps the recurrence in float32 under autocast.
    """
    given = (u, delta, A, B, C, D, z, delta_bias)
    u32, delta, A, B, C, D, z, delta_bias = (None if m is None else m.float() for m in given)
    result = _interface().selective_scan_fn(u32, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state)
    if return_last_state:
        return result[0].to(u.dtype), result[1]
    return result.to(u.dtype)
