from __future__ import annotations

import argparse
import os
import pickle
from pathlib import Path

import pytest
import torch

from monai_mamba_gen.utils import DataError, load_released_checkpoint


class Payload:
    """Writes a file when it is unpickled without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def write(path: Path, **content) -> Path:
    torch.save(content, path)
    return path


def test_weights_beside_a_namespace(tmp_path):
    ema, model = torch.nn.Linear(2, 3).state_dict(), torch.nn.Linear(2, 3).state_dict()
    args = argparse.Namespace(epochs=100, vae="ema")
    path = write(tmp_path / "a.pt", model=model, ema=ema, opt={"state": {}}, args=args)
    assert torch.equal(load_released_checkpoint(path)["weight"], ema["weight"])
    assert torch.equal(load_released_checkpoint(path, "model")["bias"], model["bias"])
    with pytest.raises(
        DataError, match=r"a.pt holds no state dict under 'args', but \['args', 'ema', 'model', 'opt'\]"
    ):
        load_released_checkpoint(path, "args")


def test_nothing_else_is_let_in(tmp_path):
    weights = torch.nn.Linear(2, 3).state_dict()
    for name, args in {
        "reduce": Payload(tmp_path / "executed"),
        "inside": argparse.Namespace(payload=Payload(tmp_path / "executed")),
        "class": argparse.ArgumentParser,
        "function": os.system,
    }.items():
        path = write(tmp_path / f"{name}.pt", ema=weights, args=args)
        with pytest.raises(DataError, match=f"{name}.pt is refused: it holds other things than weights") as error:
            load_released_checkpoint(path)
        assert "\n" not in str(error.value)
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Payload(tmp_path / "executed")))
    with pytest.raises(DataError, match="bare.pt is refused"):
        load_released_checkpoint(tmp_path / "bare.pt")
    assert not (tmp_path / "executed").exists()
    torch.load(tmp_path / "reduce.pt", weights_only=False)
    assert (tmp_path / "executed").exists()  # so the payload would have worked


def test_the_namespace_is_let_in_only_here(tmp_path):
    path = write(tmp_path / "a.pt", ema=torch.nn.Linear(2, 3).state_dict(), args=argparse.Namespace(epochs=1))
    load_released_checkpoint(path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(DataError, match="a.pt: no such file"):
        load_released_checkpoint(tmp_path / "a.pt")
    path = write(tmp_path / "a.pt", ema=torch.nn.Linear(2, 3).state_dict())
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match="a.pt is damaged") as error:
        load_released_checkpoint(path)
    assert "\n" not in str(error.value)
    torch.save([1], path)
    with pytest.raises(DataError, match="holds no state dict under 'ema', but list"):
        load_released_checkpoint(path)
    write(path, ema={"weight": 3})
    with pytest.raises(DataError, match="holds no state dict under 'ema': weight is no tensor"):
        load_released_checkpoint(path)
