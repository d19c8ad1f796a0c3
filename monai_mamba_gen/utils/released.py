"""Read the checkpoints that the authors of DiffMa publish, without running what they hold."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping

import torch

from .checkpoints import load_tensors
from .errors import DataError

__all__ = ["load_released_checkpoint"]


def load_released_checkpoint(path: str | os.PathLike[str], key: str = "ema") -> dict[str, torch.Tensor]:
    """
    Load a state dict out of a published checkpoint: weights, their running average and the settings of the training.

    The settings are an ``argparse.Namespace``, which a safe loader refuses. Here that class alone is let in, besides
    tensors and plain containers, and nothing in the file is executed.

    Args:
        path: the file.
        key: ``"ema"``: the running average, which the authors use; ``"model"``: the weights of the last step.

    Returns:
        the state dict, on the CPU.

    Raises:
        DataError: when the file is missing, damaged, holds other things than these, or no state dict under ``key``.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "released.pt")
        >>> weights = torch.nn.Linear(2, 1).state_dict()
        >>> torch.save({"ema": weights, "args": argparse.Namespace(epochs=100)}, path)
        >>> list(load_released_checkpoint(path))
        ['weight', 'bias']
    """
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = load_tensors(path)
    if not isinstance(content, Mapping) or not isinstance(content.get(key), Mapping):
        held = sorted(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise DataError(f"{path} holds no state dict under {key!r}, but {held}")
    state = dict(content[key])
    if foreign := [name for name, value in state.items() if not isinstance(value, torch.Tensor)]:
        raise DataError(f"{path} holds no state dict under {key!r}: {foreign[0]} is no tensor")
    return state
