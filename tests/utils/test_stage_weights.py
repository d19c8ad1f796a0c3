"""Weights of an earlier stage are loaded, or refused in one line that says what to do."""

from __future__ import annotations

import json

import pytest
import torch

from monai_mamba_gen.utils import DataError, load_latent_space, load_part


class Latents(torch.nn.Module):
    """As `LatentSpace`: something to load, and a scale."""

    def __init__(self, scale=float("nan"), channels=2):
        super().__init__()
        self.autoencoder = torch.nn.Linear(channels, channels)
        self.register_buffer("scale_factor", torch.tensor(scale))


@pytest.fixture
def file(tmp_path):
    torch.save(Latents(2.0).state_dict(), tmp_path / "autoencoder.pt")
    return tmp_path / "autoencoder.pt"


def test_scale_and_weights_arrive_and_are_frozen(file):
    space = load_latent_space(Latents().train(), file)
    assert float(space.scale_factor) == 2 and not space.training
    assert not any(parameter.requires_grad for parameter in space.parameters())


def test_what_is_missing_is_said(tmp_path, file):
    with pytest.raises(DataError, match=r"absent.pt: no such file; train the autoencoder first"):
        load_latent_space(Latents(), tmp_path / "absent.pt")
    with pytest.raises(DataError, match="another network"):
        load_latent_space(Latents(channels=3), file)
    with pytest.raises(DataError, match="no scale_factor"):
        load_latent_space(Latents(), None)
    assert float(load_latent_space(Latents(3.0), None).scale_factor) == 3  # brings its own


def test_settings_come_before_shapes(file):
    file.with_suffix(".json").write_text(json.dumps({"latent_channels": 2}))
    with pytest.raises(DataError, match="latent_channels=2, not 3"):
        load_latent_space(Latents(channels=3), file, {"latent_channels": 3})


def test_a_part_is_loaded_and_frozen(tmp_path):
    network = torch.nn.ModuleDict({"embedder": torch.nn.Linear(2, 2), "rest": torch.nn.Linear(2, 2)})
    other = torch.nn.Linear(2, 2)
    torch.save(other.state_dict(), tmp_path / "embedder.pt")
    assert load_part(network, "embedder", tmp_path / "embedder.pt") is network
    assert torch.equal(network["embedder"].weight, other.weight) and not network["embedder"].weight.requires_grad
    assert network["rest"].weight.requires_grad
    with pytest.raises(ValueError, match="no part 'head'"):
        load_part(network, "head", tmp_path / "embedder.pt")
