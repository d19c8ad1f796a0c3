"""Weights as safetensors: a format that holds tensors and cannot hold code. The one file that imports the package."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

from .atomic_write import atomic_write
from .checkpoints import DamagedFileError, load_tensors
from .errors import DataError
from .optional import import_optional

__all__ = ["read_safetensors", "write_safetensors"]


def read_safetensors(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> dict[str, torch.Tensor]:
    """
    Read a ``.safetensors`` file.

    Raises:
        DamagedFileError: when the file cannot be read to its end.
        ImportError: when safetensors (extra ``share``) is not installed.
    """
    safetensors = import_optional("safetensors", "share")
    load_file = import_optional("safetensors.torch", "share").load_file
    try:
        return load_file(str(path), device=str(device))
    except (safetensors.SafetensorError, OSError) as error:
        raise DamagedFileError(f"{path} is damaged ({str(error).splitlines()[0]})") from error


def write_safetensors(weights: str | os.PathLike[str], path: str | os.PathLike[str] | None = None) -> Path:
    """
    Write weights that ``torch.save`` wrote as safetensors, with the same names and values; `load_weights` reads both.

    Args:
        weights: a bare state dict, such as a bundle's ``models/model.pt``.
        path: the file to write; default: beside the weights, such as ``models/model.safetensors``, where the
            ``model.json`` of the training serves both.

    Returns:
        the path.

    Raises:
        DataError: when the weights are no state dict.
        ImportError: when safetensors (extra ``share``) is not installed.

    Example:
        >>> import tempfile
        >>> weights = Path(tempfile.mkdtemp(), "model.pt")
        >>> torch.save(torch.nn.Linear(2, 1).state_dict(), weights)
        >>> write_safetensors(weights).name  # doctest: +SKIP
        'model.safetensors'
    """
    save_file = import_optional("safetensors.torch", "share").save_file
    state = load_tensors(weights)
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise DataError(f"{weights} holds other things than a state dict")
    path = Path(weights).with_suffix(".safetensors") if path is None else Path(path)
    with atomic_write(path) as temporary:  # clones: tensors that share memory are refused
        save_file({name: value.clone().contiguous() for name, value in state.items()}, temporary, {"format": "pt"})
        shutil.copymode(weights, temporary)  # safetensors makes files that only their owner can read
    return path
