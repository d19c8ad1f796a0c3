"""Stacks of slices in memory and in files: the same numbers, small to send, never half written."""

import os
import pickle

import numpy as np
import pytest
import torch

from monai_mamba_gen.data import slice_store as module
from monai_mamba_gen.data.slice_store import SliceStack, load_slices, save_slices, to_store_dtype
from monai_mamba_gen.utils import DataError

STACK = torch.rand(5, 1, 6, 7, generator=torch.Generator().manual_seed(0))
PLACES = np.arange(15).reshape(5, 3)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache" / "abc"


def test_memory_and_file_agree(folder):
    saved = save_slices(folder, {"image": STACK, "mask": STACK > 0.5}, PLACES)
    assert np.array_equal(saved.places, PLACES) and sorted(os.listdir(folder)) == ["0.npy", "1.npy", "index.npy"]
    for stack in (SliceStack(STACK), saved.stacks["image"], load_slices(folder, ["image", "mask"]).stacks["image"]):
        assert len(stack) == 5 and stack.size == (6, 7) and torch.equal(stack.all(), STACK)
        taken = stack[3]
        assert torch.equal(taken, STACK[3]) and taken.dtype == torch.float32
        taken.zero_()
        assert torch.equal(stack[3], STACK[3]), "the store is not the caller's to change"
    assert torch.equal(saved.stacks["mask"].all(), (STACK > 0.5).float())


def test_a_mapped_stack_is_small_to_send(folder):
    large = torch.rand(50, 1, 64, 64)
    stack = save_slices(folder, {"image": large}, np.zeros((50, 3), np.int64)).stacks["image"]
    assert torch.equal(stack[7], large[7])
    sent = pickle.dumps(stack)
    assert len(sent) < 2000 and torch.equal(pickle.loads(sent)[7], large[7])


def test_half_precision(folder):
    half = to_store_dtype(STACK * 2 - 1, "float16")
    stack = save_slices(folder, {"image": half}, PLACES).stacks["image"]
    assert os.path.getsize(folder / "0.npy") < 128 + 5 * 42 * 2 + 1
    assert stack[0].dtype == torch.float32 and (stack.all() - (STACK * 2 - 1)).abs().max() <= 2.5e-4
    with pytest.raises(DataError, match="a.nii: values up to 70000 do not fit float16"):
        to_store_dtype(torch.full((1, 1, 2, 2), 7e4), "float16", "a.nii")
    assert to_store_dtype(STACK, None) is STACK
    assert to_store_dtype(torch.full((1, 1, 2, 2), float("inf")), "float16").isinf().all()


def test_no_slices(folder):
    saved = save_slices(folder, {"image": STACK[:0]}, PLACES[:0])
    assert len(saved.stacks["image"]) == 0 and saved.stacks["image"].all().shape == (0, 1, 6, 7)


def test_damaged_files_are_made_anew(folder):
    assert load_slices(folder, ["image"]) is None
    for damage in (b"", b"\x93NUMPY no more", None):
        save_slices(folder, {"image": STACK}, PLACES)
        if damage is None:
            (folder / "0.npy").unlink()
        else:
            (folder / "0.npy").write_bytes(damage or (folder / "0.npy").read_bytes()[:-9])
        assert load_slices(folder, ["image"]) is None and not folder.exists()
    with pytest.raises(ValueError, match="slices and index disagree"):
        save_slices(folder, {"image": STACK}, PLACES[:4])
    assert load_slices(folder, ["image"]) is None


def test_pickled_objects_are_not_loaded(folder):
    save_slices(folder, {"image": STACK}, PLACES)
    np.save(folder / "0.npy", np.array([print], dtype=object), allow_pickle=True)
    assert load_slices(folder, ["image"]) is None


def test_whole_or_absent(folder, monkeypatch):
    monkeypatch.setattr(module.os, "replace", lambda *paths: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        save_slices(folder, {"image": STACK}, PLACES)
    assert list(folder.parent.iterdir()) == []


def test_the_first_of_two_writers_wins(folder):
    save_slices(folder, {"image": STACK}, PLACES)
    second = save_slices(folder, {"image": STACK}, PLACES)
    assert torch.equal(second.stacks["image"].all(), STACK) and len(list(folder.parent.iterdir())) == 1
