"""Weights that one stage of a training leaves for the next."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from .checkpoints import load_weights, refuse_other_settings
from .errors import DataError

__all__ = ["load_latent_space", "load_part"]

Network = TypeVar("Network", bound=torch.nn.Module)


def load_latent_space(
    latent_space: Network, path: str | os.PathLike[str] | None, settings: Mapping[str, Any] | None = None
) -> Network:
    """
    Load what ``train_autoencoder.json`` wrote into a latent space, and return it without gradients.

    Args:
        latent_space: a `LatentSpace`; one without autoencoder (pixel mode) is returned as it is.
        path: the file; None where the autoencoder brings its own weights and the scale is known.
        settings: settings that the stages must share, see `load_weights`.

    Raises:
        DataError: when the file is missing, damaged, holds pickled code, is of another autoencoder, of other settings,
            or without the scale of its latents.

    Example:
        >>> space = torch.nn.Module()
        >>> space.autoencoder = None
        >>> load_latent_space(space, "nowhere.pt") is space
        True
    """
    if latent_space.autoencoder is not None and path is not None:
        if not Path(path).is_file():
            raise DataError(
                f"{path}: no such file; train the autoencoder first (configs/train_autoencoder.json), name its weights "
                "with --autoencoder_weights <file>, or do without it with --latent_mode pixel"
            )
        refuse_other_settings(Path(path), settings or {})  # says more than the shapes that do not fit because of them
        load_weights(latent_space, path)
    if latent_space.autoencoder is not None and not bool(torch.isfinite(latent_space.scale_factor)):
        raise DataError(f"{path}: holds no scale_factor of its latents: train the autoencoder to the end of an epoch")
    return latent_space.eval().requires_grad_(False)


def load_part(network: Network, part: str, path: str | os.PathLike[str] | None) -> Network:
    """
    Load weights into one part of a network and freeze that part; a path of None changes nothing.

    Args:
        network: the whole network, which is returned.
        part: name of the part, such as ``"embedder"``.
        path: file with the part's bare state dict.

    Raises:
        ValueError: when the network has no such part.
        DataError: as `load_weights`.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Linear(2, 2))
        >>> load_part(network, "0", None) is network
        True
    """
    if path is None:
        return network
    module = dict(network.named_children()).get(part)
    if module is None:
        raise ValueError(f"{type(network).__name__} has no part {part!r} to load {path} into")
    load_weights(module, path).requires_grad_(False)
    return network
