"""A training that starts from weights takes the network from them, and from nowhere else."""

from __future__ import annotations

import json

import pytest
import torch

SETTINGS_OF_THE_NETWORK = ("preset", "image_size", "deformation_channels", "integration_steps")


@pytest.fixture
def source(request, run):
    """Return by its short name a bundle, where it was trained, and settings that are not the network's."""

    def call(name):
        folder, data, tiny = {
            "acdc": ("trained", "phantoms", run.tiny),
            "cine": ("cine_trained", "beats", run.cine_tiny),
            "diffma": ("diffma_trained", "pairs", run.diffma_tiny),
        }[name]
        settings = {key: value for key, value in tiny.items() if key not in SETTINGS_OF_THE_NETWORK}
        settings["dataset_dir"] = str(request.getfixturevalue(data))
        return getattr(run, name), request.getfixturevalue(folder) / "models", settings

    return call


@pytest.mark.parametrize("name", ["acdc", "cine", "diffma"])
def test_weights_and_settings_are_those_of_the_file(run, source, tmp_path, name):
    """Without a learning rate an epoch leaves the weights as they were, and so their average."""
    bundle, models, settings = source(name)
    if name == "diffma":
        settings["autoencoder_weights"] = str(models / "autoencoder.pt")
    settings |= {"bundle_root": str(tmp_path), "initial_weights": str(models / "model.pt"), "learning_rate": 0.0}
    run.here(bundle, "training", "train", **settings)
    before, after = (torch.load(folder / "model.pt", weights_only=True) for folder in (models, tmp_path / "models"))
    assert before.keys() == after.keys()
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, rtol=0, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}")
    old, new = (json.loads((folder / "model.json").read_text()) for folder in (models, tmp_path / "models"))
    assert old == new


def test_another_size_of_image_is_allowed(run, source, tmp_path):
    bundle, models, settings = source("acdc")
    settings |= {"bundle_root": str(tmp_path), "initial_weights": str(models / "model.pt"), "image_size": [24, 16]}
    run.here(bundle, "training", "train", **settings)
    facts = json.loads((tmp_path / "models" / "model.json").read_text())
    assert facts["image_size"] == [24, 16] and facts["preset"] == run.tiny["preset"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"prediction_type": "sample"}, "was trained with prediction_type='epsilon', not 'sample'"),
        ({"preset": "tiny"}, "is of another network"),
        ({"initial_weights": "nowhere/model.pt"}, "nowhere/model.pt: no such file"),
    ],
)
def test_what_does_not_fit_is_refused(refuse, source, overrides, said):
    _, models, settings = source("acdc")
    assert said in refuse("training", "train", **settings, **{"initial_weights": str(models / "model.pt")} | overrides)
