"""Read weights safely, and say in one line why they do not fit."""

from __future__ import annotations

import json
import logging
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from .errors import DataError

__all__ = ["DamagedFileError", "load_tensors", "load_weights", "state_dict_mismatch", "trained_setting"]

logger = logging.getLogger(__name__)

_PICKLED = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # a zip of torch.save, or a bare pickle

Network = TypeVar("Network", bound=torch.nn.Module)


class DamagedFileError(DataError):
    """A file that cannot be read to its end."""


def _first_bytes(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(2)


def state_dict_mismatch(network: torch.nn.Module, state: Mapping[str, Any]) -> str | None:
    """Return what keeps a state dict from fitting a network, None when it fits."""
    own = network.state_dict()
    for key in [*own, *(key for key in state if key not in own)]:
        here = "absent" if key not in own else tuple(getattr(own[key], "shape", ()))
        there = "absent" if key not in state else tuple(getattr(state[key], "shape", ()))
        if here != there:
            return f"{key} is {there} in the file and {here} in this network"
    return None


def load_tensors(path: str | os.PathLike[str], map_location: str | torch.device = "cpu") -> Any:
    """
    Load a file written by ``torch.save`` that holds tensors and plain containers only; nothing in it is executed.

    A file named ``*.safetensors`` is read as such, see `write_safetensors`.

    Raises:
        DamagedFileError: when the file cannot be read to its end.
        DataError: when the file is missing or holds pickled code.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; train first, or name the weights")
    if path.suffix == ".safetensors":
        from .safetensors_files import read_safetensors  # which reads .pt files by this module

        return read_safetensors(path, map_location)
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, pickle.UnpicklingError) as error:
        if isinstance(error, pickle.UnpicklingError) and _first_bytes(path) in _PICKLED:
            raise DataError(f"{path} is refused: it holds other things than weights") from error
        raise DamagedFileError(
            f"{path} is damaged ({str(error).splitlines()[0] if str(error) else 'empty'})"
        ) from error


def _refuse_non_finite(path: Path, state: Mapping[str, Any]) -> None:
    for key, value in state.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise DataError(f"{path} cannot be used: {key} holds NaN or infinity; train again, or name other weights")


def _trained_settings(path: Path) -> dict[str, Any]:
    """Return what training noted beside the weights, nothing where it did not."""
    facts = path.with_suffix(".json")
    if not facts.is_file():
        return {}
    try:
        settings = json.loads(facts.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedFileError(f"{facts} is damaged ({error})") from error
    if not isinstance(settings, dict):
        raise DamagedFileError(f"{facts} is damaged (it holds a {type(settings).__name__}, not settings)")
    return settings


def trained_setting(weights: str | os.PathLike[str] | None, name: str, default: Any = None) -> Any:
    """
    Return a setting that weights were trained with, so that a bundle can use them without being told; for configs.

    Args:
        weights: the weights file, such as a bundle's ``model.pt``; it need not exist. None: there is none.
        name: name of the setting in the ``model.json`` that training wrote beside it, such as ``"preset"``.
        default: what is returned where there is no such file, or it does not say.

    Raises:
        DataError: when ``model.json`` is damaged.

    Example:
        >>> trained_setting("nowhere/model.pt", "preset", "base")
        'base'
    """
    return default if weights is None else _trained_settings(Path(weights)).get(name, default)


def refuse_other_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Raise a DataError where settings are not those that training noted beside the weights, as far as it did."""
    trained = _trained_settings(path)
    for key, value in settings.items():
        if key in trained and trained[key] != value:
            raise DataError(f"{path} was trained with {key}={trained[key]!r}, not {value!r}: set {key} to that")


def load_weights(
    network: Network, path: str | os.PathLike[str] | None, settings: Mapping[str, Any] | None = None
) -> Network:
    """
    Load a bare state dict, such as a bundle's ``model.pt`` or ``model.safetensors``, into a network and return it.

    Args:
        network: network of the same arguments as the one the weights were trained for.
        path: the file; None: nothing is loaded, with a warning, for weights that come from elsewhere, such as the
            server of a federated training.
        settings: settings that training and use must share, such as ``prediction_type``; compared with the
            ``model.json`` that training wrote beside ``model.pt``, where there is one.

    Raises:
        DataError: when the file is missing, damaged, holds pickled code, is of another network or of other
            settings, or holds NaN, as the scale of a latent space that was never measured.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "model.pt")
        >>> torch.save(torch.nn.Linear(2, 1).state_dict(), path)
        >>> load_weights(torch.nn.Linear(2, 1), path)
        Linear(in_features=2, out_features=1, bias=True)
    """
    if path is None:
        logger.warning("no file of weights: the network keeps its own until it is given others")
        return network
    state = load_tensors(path)
    if not isinstance(state, Mapping):
        raise DataError(f"{path} holds a {type(state).__name__}, not a state dict")
    if (reason := state_dict_mismatch(network, state)) is not None:
        raise DataError(f"{path} is of another network: {reason}")
    _refuse_non_finite(Path(path), state)
    refuse_other_settings(Path(path), settings or {})
    network.load_state_dict(dict(state))
    return network
