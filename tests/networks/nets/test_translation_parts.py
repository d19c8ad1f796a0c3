"""Latent spaces and image embeddings by name."""

from __future__ import annotations

import pytest
import torch

from monai_mamba_gen.networks.nets import image_embedder, named_latent_space, translation_parts


class Autoencoder(torch.nn.Module):
    downsampling = 4

    def encode(self, images):
        return images[..., ::4, ::4]

    def decode(self, latents):
        return latents.repeat_interleave(4, -1).repeat_interleave(4, -2)


def test_modes():
    pixels = named_latent_space("pixel", Autoencoder())
    assert pixels.autoencoder is None and pixels.downsampling == pixels.latent_channels == 1
    assert named_latent_space("autoencoder", Autoencoder()).downsampling == 4
    with pytest.raises(ValueError, match="latent_mode must be one of"):
        named_latent_space("wavelet")
    with pytest.raises(ValueError, match="needs an autoencoder"):
        named_latent_space("autoencoder")


def test_embeddings(monkeypatch):
    monkeypatch.setattr(translation_parts, "BiomedCLIPEmbedding", lambda weights: ("biomedclip", weights))
    assert image_embedder("learned", "unused") is None
    assert image_embedder("biomedclip", "folder") == ("biomedclip", "folder")
    with pytest.raises(ValueError, match="biomedclip_weights"):
        image_embedder("biomedclip")
    with pytest.raises(ValueError, match="image_embedding must be one of"):
        image_embedder("clip")
