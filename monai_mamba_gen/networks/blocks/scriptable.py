"""TorchScript of networks that ``torch.jit.script`` cannot compile: a trace behind a compiled signature."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import nn

__all__ = ["ScriptableDenoiser", "frozen_copy", "portable_trace"]

_Module = TypeVar("_Module", bound=nn.Module)


def frozen_copy(module: _Module) -> _Module:
    """
    Copy a module for use without training: in evaluation mode, its parameters without gradients.

    Example:
        >>> frozen_copy(torch.nn.Linear(2, 1)).training
        False
    """
    return copy.deepcopy(module).eval().requires_grad_(False)


def portable_trace(module: nn.Module, *inputs: torch.Tensor) -> torch.jit.ScriptModule:
    """
    Trace a module without gradients, so that the trace runs on the device that it is moved to.

    ``torch.jit.trace`` writes the device of the example into every ``torch.arange``; here they follow the first input.

    Args:
        module: any module that can be traced.
        inputs: examples of its arguments.

    Returns:
        a trace for inference; its parameters are the module's.

    Example:
        >>> portable_trace(torch.nn.Linear(2, 1), torch.zeros(1, 2))(torch.zeros(3, 2)).shape
        torch.Size([3, 1])
    """
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes taken for constants (tests say which are not), and of its own age
        traced = torch.jit.trace(module, inputs, check_trace=False)
    graph = traced.graph
    torch._C._jit_pass_inline(graph)
    device = graph.create("prim::device", [list(graph.inputs())[1]], 1)  # after the module itself: the first input
    device.output().setType(torch._C.DeviceObjType.get())
    graph.prependNode(device)
    for node in list(_nodes(graph)):
        if node.kind() == "prim::Constant" and isinstance(node.output().type(), torch._C.DeviceObjType):
            node.output().replaceAllUsesWith(device.output())
            node.destroy()
    return traced


def _nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


class _Call(nn.Module):
    """A network with a fixed number of arguments."""

    def __init__(self, network: nn.Module, with_context: bool) -> None:
        super().__init__()
        self.network, self.with_context = network, with_context

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        return self.network(x, timesteps, context) if self.with_context else self.network(x, timesteps)


class ScriptableDenoiser(nn.Module):
    """
    What ``torch.jit.script``, and so MONAI's ``ckpt_export``, compiles in the place of a denoiser.

    A module is asked for ``__prepare_scriptable__`` first; our denoisers answer with this. It holds a trace, for
    inference only, and fills in what is not given, as the network does. Batch, values and, where the network's tables
    do not depend on it, image size may be others than the example's.

    Args:
        network: denoiser with ``forward(x, timesteps, context)``.
        x: example of x, (N, C, *S).
        context: example of a context, images (N, C', *S) or labels (N,) integer; None: the network takes none.

    Example:
        >>> from monai_mamba_gen.networks.nets import VMDDPM
        >>> scripted = torch.jit.script(VMDDPM(channels=(8, 16), layers_per_stage=1))
        >>> scripted(torch.randn(2, 1, 30, 21), timesteps=torch.tensor([5, 900])).shape
        torch.Size([2, 1, 30, 21])
    """

    def __init__(self, network: nn.Module, x: torch.Tensor, context: torch.Tensor | None = None) -> None:
        super().__init__()
        self.takes_context = context is not None
        self.context_channels = 0 if context is None or context.ndim == 1 else context.shape[1]  # 0: labels
        timesteps = torch.zeros(1, device=x.device)
        example = (x, timesteps, timesteps if context is None else context)
        self.traced = portable_trace(_Call(frozen_copy(network), self.takes_context), *example)

    def forward(
        self, x: torch.Tensor, timesteps: torch.Tensor | None = None, context: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Arguments and result are the network's; of its options, ``timesteps`` and ``context`` are there."""
        if timesteps is None:
            timesteps = torch.zeros(1, device=x.device)
        if context is None:  # -1 says so, to all our networks
            if self.context_channels > 0:
                shape = list(x.shape)
                shape[1] = self.context_channels
                context = torch.full(shape, -1.0, dtype=x.dtype, device=x.device)
            else:
                context = torch.full([1], -1, dtype=torch.long, device=x.device)
        elif not self.takes_context:
            raise ValueError("this network takes no context")
        return self.traced(x, timesteps, context)
