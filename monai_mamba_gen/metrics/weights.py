"""Weights from a file the user names: checked before they are opened."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch
from torch import nn

from ..utils.errors import DataError

__all__ = ["file_sha256", "load_weights_strictly", "read_state_dict"]


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the sha256 of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def read_state_dict(path: str | os.PathLike[str], sha256: str | None = None) -> tuple[dict[str, torch.Tensor], str]:
    """
    Read a plain state dict; nothing but tensors is ever unpickled.

    Args:
        path: the file.
        sha256: what its sha256 has to be; default: not checked.

    Returns:
        The state dict and the file's sha256.

    Raises:
        DataError: when the file is missing, has another sha256, or is no state dict.
    """
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file of weights")
    digest = file_sha256(path)
    if sha256 is not None and digest != sha256.lower():
        raise DataError(f"{path}: sha256 is {digest}, expected {sha256.lower()}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DataError(f"{path}: not a state dict of tensors ({type(error).__name__})") from None
    if not isinstance(state, dict) or not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise DataError(f"{path}: not a plain state dict (a dictionary from names to tensors)")
    return dict(state), digest


def load_weights_strictly(module: nn.Module, state: dict[str, torch.Tensor], path: str | os.PathLike[str]) -> None:
    """
    Load a state dict, every key of which has to fit.

    Raises:
        DataError: when keys are missing or unexpected or a shape differs; the message names the first of each.
    """
    own = module.state_dict()
    # Old files lack these counters; PyTorch itself forgives that.
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    wrong = [key for key in own if key in state and own[key].shape != state[key].shape]
    if missing or unexpected or wrong:
        faults = [
            f"{len(keys)} {what} (first: {keys[0]})"
            for what, keys in (("keys missing", missing), ("keys unknown", unexpected), ("shapes differ", wrong))
            if keys
        ]
        raise DataError(f"{path}: not weights of {type(module).__name__}: {', '.join(faults)}")
    module.load_state_dict(state, strict=False)
