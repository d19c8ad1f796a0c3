from __future__ import annotations

import json
import os

import pytest
import torch

from monai_mamba_gen.utils import DataError, load_weights, read_safetensors, trained_setting, write_safetensors
from monai_mamba_gen.utils.checkpoints import DamagedFileError

pytest.importorskip("safetensors")


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(torch.nn.Linear(3, 2).state_dict(), path)
    path.with_suffix(".json").write_text(json.dumps({"preset": "tiny", "prediction_type": "epsilon"}))
    return path


def test_both_files_hold_the_same(weights):
    path = write_safetensors(weights)
    assert path == weights.with_suffix(".safetensors")
    expected, found = torch.load(weights, weights_only=True), read_safetensors(path)
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)
    assert sorted(each.name for each in weights.parent.iterdir()) == ["model.json", "model.pt", "model.safetensors"]


@pytest.mark.skipif(os.name != "posix", reason="Windows has other permissions")
def test_whoever_can_read_the_weights_can_read_either(weights):
    weights.chmod(0o640)
    assert write_safetensors(weights).stat().st_mode == weights.stat().st_mode


def test_a_network_loads_either_with_the_same_checks(weights):
    path = write_safetensors(weights)
    first, second = (load_weights(torch.nn.Linear(3, 2), each) for each in (weights, path))
    assert torch.equal(first.weight, second.weight) and torch.equal(first.bias, second.bias)
    assert trained_setting(path, "preset", "base") == "tiny"
    with pytest.raises(DataError, match="was trained with prediction_type='epsilon'"):
        load_weights(torch.nn.Linear(3, 2), path, {"prediction_type": "sample"})
    with pytest.raises(DataError, match="is of another network: weight is"):
        load_weights(torch.nn.Linear(3, 3), path)


def test_weights_that_share_memory_are_written_twice(tmp_path):
    tied = torch.rand(2, 2)
    torch.save({"a": tied, "b": tied, "c": tied.T}, tmp_path / "model.pt")
    found = read_safetensors(write_safetensors(tmp_path / "model.pt", tmp_path / "other.safetensors"))
    assert torch.equal(found["a"], tied) and torch.equal(found["b"], tied) and torch.equal(found["c"], tied.T)


def test_damaged_and_other_files_are_named(weights, tmp_path):
    path = write_safetensors(weights)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DamagedFileError, match=r"model\.safetensors is damaged"):
        load_weights(torch.nn.Linear(3, 2), path)
    with pytest.raises(DataError, match="no such file"):
        load_weights(torch.nn.Linear(3, 2), tmp_path / "absent.safetensors")
    torch.save({"epoch": 3}, tmp_path / "state.pt")
    with pytest.raises(DataError, match="holds other things than a state dict"):
        write_safetensors(tmp_path / "state.pt")
    assert not (tmp_path / "state.safetensors").exists()


def test_without_the_package_the_extra_is_named(weights, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match=r"monai_mamba_gen\[share\]"):
        write_safetensors(weights)
