from __future__ import annotations

import json
import os
import pickle

import pytest
import torch

from monai_mamba_gen.utils import DataError, load_weights, trained_setting


def saved(folder, network=None):
    path = folder / "model.pt"
    torch.save((network or torch.nn.Linear(2, 3)).state_dict(), path)
    return path


def test_loads_a_bare_state_dict(tmp_path):
    source = torch.nn.Linear(2, 3)
    loaded = load_weights(torch.nn.Linear(2, 3), saved(tmp_path, source))
    assert torch.equal(loaded.weight, source.weight) and torch.equal(loaded.bias, source.bias)


def test_without_a_file_the_network_keeps_its_weights_and_says_so(caplog):
    network = torch.nn.Linear(2, 3)
    before = network.weight.clone()
    assert load_weights(network, None, {"preset": "base"}) is network and torch.equal(network.weight, before)
    assert "no file of weights" in caplog.text
    assert trained_setting(None, "preset", "base") == "base"


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


def test_settings_of_the_training_are_read_beside_the_weights(tmp_path):
    path = tmp_path / "model.pt"  # need not exist: a config asks before the weights are loaded
    assert trained_setting(path, "preset", "base") == "base"
    (tmp_path / "model.json").write_text(json.dumps({"image_size": [64, 64], "num_class_embeds": None}))
    assert trained_setting(str(path), "image_size", [128, 128]) == [64, 64]
    assert trained_setting(path, "num_class_embeds", 2) is None, "null is an answer, not silence"
    assert trained_setting(path, "preset", "base") == "base" and trained_setting(path, "preset") is None
    assert trained_setting(tmp_path / "other.pt", "image_size", [128, 128]) == [128, 128]


@pytest.mark.parametrize("text", ["{", "[]"])
def test_damaged_settings_of_the_training_are_named(tmp_path, text):
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(DataError, match="model.json is damaged"):
        trained_setting(tmp_path / "model.pt", "preset", "base")
