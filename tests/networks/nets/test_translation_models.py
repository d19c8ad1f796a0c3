from __future__ import annotations

import pytest
import torch

from monai_mamba_gen.networks.nets import TRANSLATION_MODELS, ConcatConditioned, DiffMa, translation_model

OPTIONS = {
    "diffma": {"hidden_size": 16, "num_layers": 2, "image_size": 8, "d_state": 2},
    "unet": {"channels": (8, 16), "attention_levels": (False, True), "norm_num_groups": 4, "num_head_channels": 8},
}


@pytest.mark.parametrize("name", TRANSLATION_MODELS)
@pytest.mark.parametrize(("learn_sigma", "out_channels"), [(False, 2), (True, 4)])
def test_one_key_switches(name, learn_sigma, out_channels):
    network = translation_model(name, in_channels=2, context_channels=3, learn_sigma=learn_sigma, **OPTIONS)
    assert isinstance(network, {"diffma": DiffMa, "unet": ConcatConditioned}[name])
    x, context = torch.randn(2, 2, 7, 9), torch.randn(2, 3, 7, 9)
    y = network(x, torch.tensor([3, 900]), context)
    assert y.shape == (2, out_channels, 7, 9)
    assert network(x, torch.tensor([3.0])).shape == y.shape
    y.square().mean().backward()
    assert not [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]


def test_presets_and_overrides():
    with torch.device("meta"):
        assert translation_model("diffma", diffma="S/4").patch_size == 4
        network = translation_model("diffma", in_channels=1, diffma={"preset": "tiny/2", "num_layers": 2})
    assert (network.hidden_size, network.num_layers, network.in_channels) == (128, 2, 1)


def test_the_baseline_is_of_like_size():
    sizes = {}
    for name in TRANSLATION_MODELS:
        with torch.device("meta"):
            sizes[name] = sum(p.numel() for p in translation_model(name, diffma="tiny/2").parameters())
    assert 0.9 < sizes["unet"] / sizes["diffma"] < 1.1


def test_other_names_are_refused():
    with pytest.raises(ValueError, match=r"translation model must be one of \['diffma', 'unet'\], got 'dit'"):
        translation_model("dit")
