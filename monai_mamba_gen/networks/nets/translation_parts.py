"""The parts of a translation model besides its network, by name, so that one key of a config switches them."""

from __future__ import annotations

import os

from torch import nn

from ..blocks import BiomedCLIPEmbedding
from .latent_space import LatentSpace

__all__ = ["image_embedder", "named_latent_space"]

_LATENT_MODES = ("autoencoder", "pixel")
_EMBEDDINGS = ("learned", "biomedclip")


def named_latent_space(mode: str, autoencoder: nn.Module | None = None) -> LatentSpace:
    """
    Build the space that a diffusion model works in.

    Args:
        mode: "autoencoder", or "pixel": the images themselves.
        autoencoder: see `LatentSpace`; passed over in pixel mode, so that a config can state both.

    Raises:
        ValueError: when there is no such mode, or the autoencoder is missing.

    Example:
        >>> named_latent_space("pixel").downsampling
        1
    """
    if mode not in _LATENT_MODES:
        raise ValueError(f"latent_mode must be one of {_LATENT_MODES}, got {mode!r}")
    if mode == "autoencoder" and autoencoder is None:
        raise ValueError("latent_mode 'autoencoder' needs an autoencoder, got None")
    return LatentSpace(autoencoder if mode == "autoencoder" else None)


def image_embedder(name: str, weights: str | os.PathLike[str] | None = None) -> nn.Module | None:
    """
    Return what embeds source slices for a network, None where the network learns that itself.

    Args:
        name: "learned" or "biomedclip".
        weights: file or folder of `BiomedCLIPEmbedding`.

    Raises:
        ValueError: when there is no such embedding, or its weights are not named.

    Example:
        >>> image_embedder("learned") is None
        True
    """
    if name not in _EMBEDDINGS:
        raise ValueError(f"image_embedding must be one of {_EMBEDDINGS}, got {name!r}")
    if name == "learned":
        return None
    if weights is None:
        raise ValueError("image_embedding 'biomedclip' needs its weights: --biomedclip_weights <file or folder>")
    return BiomedCLIPEmbedding(weights)
