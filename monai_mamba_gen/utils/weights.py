"""The identity of a network's weights, to be written next to what they made."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from .errors import DataError

__all__ = ["file_sha256", "state_dict_sha256", "weights_sha256"]


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def weights_sha256(path: str | os.PathLike[str]) -> str:
    """
    Return the SHA-256 of a weights file, the number that ``sha256sum model.pt`` prints.

    Args:
        path: the file.

    Raises:
        DataError: when there is no such file.
    """
    if not Path(path).is_file():
        raise DataError(f"weights file not found: {path}")
    return file_sha256(path)


def state_dict_sha256(weights: nn.Module | Mapping[str, torch.Tensor]) -> str:
    """
    Return a SHA-256 over names, dtypes, shapes and values of a state dict, in the order of its sorted names.

    It does not depend on the device or on how a file was written; it is not the number of any file.

    Args:
        weights: a module or a state dict.

    Example:
        >>> len(state_dict_sha256(nn.Linear(2, 3)))
        64
    """
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name]
        if not isinstance(tensor, torch.Tensor):
            continue
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
