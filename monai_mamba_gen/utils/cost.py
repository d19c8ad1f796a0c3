"""What one forward pass costs: parameters and multiply-accumulates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["count_cost", "scan_macs"]


def scan_macs(positions: int, channels: int, state: int) -> int:
    """
    Multiply-accumulates of one selective scan, by VMamba's convention: ``9 L D S + L D``.

    Nine for each state of each channel at each step, exponential included, and one for the skip ``D u``. VMamba's
    counter adds this number to its multiply-accumulates unhalved. The recurrence itself has about five multiplications
    a state, so the convention does not flatter the scan.

    Args:
        positions: batch size times length, N * L.
        channels: channels D of the scan, over all its directions.
        state: state size S.

    Example:
        >>> scan_macs(1024, 768, 16)
        114032640
    """
    return 9 * positions * channels * state + positions * channels


def _is_scan(module: nn.Module) -> bool:
    return all(hasattr(module, name) for name in ("d_state", "d_inner", "directions", "scan_backend"))


@contextmanager
def _counted_scans(network: nn.Module) -> Iterator[list[int]]:
    """
    Collect the cost of every scan by formula, and keep it out of the counter of products.

    What a scan's backend does with products is its own affair and differs from one to the next. The reference has none,
    so the scans run on it here.
    """
    scans, counts = [module for module in network.modules() if _is_scan(module)], []

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        positions = inputs[0].numel() // inputs[0].shape[1]  # of (N, C, *S)
        counts.append(scan_macs(positions, module.directions * module.d_inner, module.d_state))

    backends = [module.scan_backend for module in scans]
    hooks = [module.register_forward_pre_hook(count) for module in scans]
    try:
        for module in scans:
            module.scan_backend = "reference"
        yield counts
    finally:
        for module, backend, hook in zip(scans, backends, hooks, strict=True):
            module.scan_backend = backend
            hook.remove()


@torch.no_grad()
def count_cost(network: nn.Module, x: torch.Tensor, timesteps: torch.Tensor | None = None) -> tuple[int, int]:
    """
    Count the parameters of a network and the multiply-accumulates of one forward pass.

    Convolutions, linear layers and matrix products (attention's too) are counted by PyTorch's `FlopCounterMode` and
    halved; selective scans are counted by `scan_macs`. Normalisations, activations and other element-wise operations
    are not counted, as is usual. A scan module is one that has ``d_state``, ``d_inner``, ``directions`` and
    ``scan_backend``; its input is (N, C, *S). The pass is really run, with a plain loop for the scans: seconds to a
    minute for images above 256 x 256. It may draw random numbers, as every forward pass of the network may.

    Args:
        network: a network called as ``network(x, timesteps=timesteps)``.
        x: input, (N, C, *S).
        timesteps: diffusion time, (N,) or (1,); default zeros.

    Returns:
        Number of parameters, and multiply-accumulates for the whole batch.

    Example:
        >>> from monai_mamba_gen.networks.nets import VMDDPM
        >>> network = VMDDPM.from_preset("micro")
        >>> parameters, macs = count_cost(network, torch.zeros(1, 1, 32, 32))
        >>> parameters == sum(p.numel() for p in network.parameters()), macs > 0
        (True, True)
    """
    timesteps = torch.zeros(1, device=x.device) if timesteps is None else timesteps
    with _counted_scans(network) as scans, FlopCounterMode(display=False) as counter:
        network(x, timesteps=timesteps)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return parameters, counter.get_total_flops() // 2 + sum(scans)
