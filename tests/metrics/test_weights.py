import hashlib

import pytest
import torch
from torch import nn

from monai_mamba_gen.metrics.weights import file_sha256, load_weights_strictly, read_state_dict
from monai_mamba_gen.utils.errors import DataError


class Payload:
    def __reduce__(self):
        return (open, ("never_written", "w"))


def test_reads_a_state_dict(tmp_path):
    path = tmp_path / "net.pth"
    torch.save(nn.Linear(2, 3).state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert file_sha256(path) == digest
    state, found = read_state_dict(path, digest.upper())
    assert found == digest
    assert sorted(state) == ["bias", "weight"]


def test_refuses_what_is_no_state_dict(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"missing\.pth: no such file"):
        read_state_dict("missing.pth")
    torch.save({"a": Payload()}, "payload.pth")
    torch.save({"model": {"a": torch.zeros(1)}}, "nested.pth")
    torch.save([torch.zeros(1)], "list.pth")
    (tmp_path / "truncated.pth").write_bytes((tmp_path / "nested.pth").read_bytes()[:100])
    for name in ("payload", "nested", "list", "truncated"):
        with pytest.raises(DataError, match=rf"{name}\.pth: not a .*state dict") as error:
            read_state_dict(f"{name}.pth")
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match=r"list\.pth: sha256 is \w+, expected 0000"):
        read_state_dict("list.pth", "0000")
    assert not (tmp_path / "never_written").exists()


def test_every_key_has_to_fit():
    with pytest.raises(DataError, match=r"x\.pth: not weights of Linear: 1 keys missing \(first: bias\)"):
        load_weights_strictly(nn.Linear(2, 3), {"weight": torch.zeros(3, 2)}, "x.pth")
    wrong = {"weight": torch.zeros(3, 3), "bias": torch.zeros(3), "more": torch.zeros(1)}
    with pytest.raises(DataError, match=r"keys unknown \(first: more\), 1 shapes differ \(first: weight\)"):
        load_weights_strictly(nn.Linear(2, 3), wrong, "x.pth")
    norm = nn.BatchNorm2d(2)
    old = {key: value + 1 for key, value in norm.state_dict().items() if key != "num_batches_tracked"}
    load_weights_strictly(norm, old, "x.pth")
    assert norm.weight.tolist() == [2, 2]
