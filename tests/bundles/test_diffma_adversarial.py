"""The autoencoder's adversarial option, an overlay over train_autoencoder.json, trains and resumes."""

from __future__ import annotations

import sys

import pytest
import torch

CONFIGS = ("train_autoencoder", "train_autoencoder_adversarial")
DISCRIMINATOR = {"discriminator_channels": 4, "discriminator_layers": 1, "adversarial_warmup_epochs": 1}


@pytest.fixture(autouse=True)
def keep_excepthook(monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


def test_discriminator_and_autoencoder_train_and_go_on(run, pairs, tmp_path):
    settings = {**run.diffma_tiny, **DISCRIMINATOR, "dataset_dir": str(pairs), "bundle_root": str(tmp_path)}
    run.here(run.diffma, "training", *CONFIGS, **{**settings, "autoencoder_epochs": 2})
    run.here(run.diffma, "training", *CONFIGS, **{**settings, "autoencoder_epochs": 3, "resume": True})
    folder = tmp_path / "models" / "autoencoder"
    second, third = (torch.load(folder / f"checkpoint_epoch={n}.pt", weights_only=True) for n in (2, 3))
    assert second["discriminator_optimizer"]["state"][0]["step"] == 2, "two steps: none in the epoch of warm-up"
    assert third["discriminator_optimizer"]["state"][0]["step"] == 4
    for name in ("network", "discriminator"):
        key = next(key for key in second[name] if key.endswith("conv.weight"))
        assert not torch.equal(second[name][key], third[name][key]), name
    weights = torch.load(tmp_path / "models" / "autoencoder.pt", weights_only=True)
    assert bool(torch.isfinite(weights["scale_factor"]))
    assert not any("discriminator" in key for key in weights)
