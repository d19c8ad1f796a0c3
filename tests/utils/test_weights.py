from __future__ import annotations

import hashlib

import pytest
from torch import nn

from monai_mamba_gen.utils import DataError, state_dict_sha256, weights_sha256


def test_weights_sha256(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(b"weights")
    assert weights_sha256(path) == hashlib.sha256(b"weights").hexdigest()
    with pytest.raises(DataError, match="nothing.pt"):
        weights_sha256(tmp_path / "nothing.pt")


def test_state_dict_sha256():
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))  # has a 0-dim integer tensor
    digest = state_dict_sha256(net)
    assert digest == state_dict_sha256(dict(reversed(net.state_dict().items())))
    changed = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    changed["0.weight"][0, 0] += 1e-3
    assert state_dict_sha256(changed) != digest
    half = {name: tensor.bfloat16() for name, tensor in net.state_dict().items()}
    assert state_dict_sha256(half) not in (digest, state_dict_sha256({**half, "0.bias": half["0.bias"].float()}))
