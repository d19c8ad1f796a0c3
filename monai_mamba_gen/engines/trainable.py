"""A network that is checked to have something to learn."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

__all__ = ["trainable"]

Network = TypeVar("Network", bound=nn.Module)


def trainable(network: Network, device: str | torch.device = "cpu") -> Network:
    """
    Move a network to a device and return it, if it can be trained.

    Args:
        network: the network.
        device: where to.

    Raises:
        ValueError: when the network has no parameters to train, as linear blending; optimizers and
            DistributedDataParallel would say so less clearly.

    Example:
        >>> trainable(nn.Linear(2, 1))
        Linear(in_features=2, out_features=1, bias=True)
    """
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ValueError(
            f"{type(network).__name__} has nothing to train: evaluate it and run inference with it as it is, or name "
            "another model"
        )
    return network.to(device)
