"""A first stage is trained where its weights are missing, and only there."""

from __future__ import annotations

import json

import pytest

from monai_mamba_gen.utils import first_stage as module
from monai_mamba_gen.utils import train_first_stage

CONFIG = {
    "imports": ["$import pathlib"],
    "output": "nowhere",
    "training": ["$pathlib.Path(@output).write_text('trained')"],
}


@pytest.fixture
def configs(tmp_path):
    (tmp_path / "stage.json").write_text(json.dumps(CONFIG))
    return tmp_path


def test_missing_weights_are_made_once(configs):
    weights = configs / "weights.pt"
    settings = {"output": str(weights)}
    assert train_first_stage(weights, configs, ["stage.json"], settings) and weights.read_text() == "trained"
    assert not train_first_stage(weights, configs, ["stage.json"], settings)


def test_otherwise_nothing_is_done(configs, monkeypatch):
    weights = configs / "weights.pt"
    assert not train_first_stage(None, configs, ["stage.json"])
    assert not train_first_stage(weights, configs, ["absent.json"])
    monkeypatch.setattr(module, "get_world_size", lambda: 2)
    assert not train_first_stage(weights, configs, ["stage.json"])
    assert not weights.exists()
