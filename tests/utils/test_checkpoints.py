from __future__ import annotations

import json
import os
import pickle

import pytest
import torch

from monai_mamba_gen.utils import DataError, load_weights


def saved(folder, network=None):
    path = folder / "model.pt"
    torch.save((network or torch.nn.Linear(2, 3)).state_dict(), path)
    return path


def test_loads_a_bare_state_dict(tmp_path):
    source = torch.nn.Linear(2, 3)
    loaded = load_weights(torch.nn.Linear(2, 3), saved(tmp_path, source))
    assert torch.equal(loaded.weight, source.weight) and torch.equal(loaded.bias, source.bias)


def test_missing_damaged_and_foreign_files_are_named(tmp_path):
    path = tmp_path / "model.pt"
    with pytest.raises(DataError, match="model.pt: no such file"):
        load_weights(torch.nn.Linear(2, 3), path)
    content = saved(tmp_path).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="model.pt is damaged"):
        load_weights(torch.nn.Linear(2, 3), path)
    torch.save([1, 2], path)
    with pytest.raises(DataError, match="holds a list, not a state dict"):
        load_weights(torch.nn.Linear(2, 3), path)
    path.write_bytes(pickle.dumps({"weight": os.getcwd}))
    with pytest.raises(DataError, match="is refused: it holds other things than weights"):
        load_weights(torch.nn.Linear(2, 3), path)


def test_another_network_is_refused_before_anything_is_loaded(tmp_path):
    network = torch.nn.Linear(2, 4)
    before = network.weight.clone()
    with pytest.raises(DataError, match=r"another network: weight is \(3, 2\) in the file and \(4, 2\) in this"):
        load_weights(network, saved(tmp_path))
    with pytest.raises(DataError, match="0.weight is absent in the file"):
        load_weights(torch.nn.Sequential(torch.nn.Linear(2, 3)), saved(tmp_path))
    assert torch.equal(network.weight, before)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    network = torch.nn.Linear(2, 3)
    network.bias.data[1] = float("nan")
    with pytest.raises(DataError, match="model.pt cannot be used: bias holds NaN or infinity"):
        load_weights(torch.nn.Linear(2, 3), saved(tmp_path, network))


def test_settings_must_be_those_of_the_training(tmp_path):
    path = saved(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps({"prediction_type": "v_prediction", "epoch": 3}))
    load_weights(torch.nn.Linear(2, 3), path, {"prediction_type": "v_prediction", "unknown": 1})
    with pytest.raises(DataError, match="was trained with prediction_type='v_prediction', not 'epsilon'"):
        load_weights(torch.nn.Linear(2, 3), path, {"prediction_type": "epsilon"})
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(DataError, match="model.json is damaged"):
        load_weights(torch.nn.Linear(2, 3), path, {"prediction_type": "epsilon"})
