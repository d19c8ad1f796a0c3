"""What is to be generated: inputs, seeds, and what a killed run has left."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_mamba_gen.data import CineSamples, cine_inputs, write_acdc_phantom
from monai_mamba_gen.utils import DataError, file_sha256


def load(item):
    load.seen.append(item["patient"])
    return {"image": torch.rand(1, 4, 4, 3)}


@pytest.fixture(autouse=True)
def forget():
    load.seen = []


def write(path, frames=1):
    shape = (4, 4, 3, frames) if frames > 1 else (4, 4, 3)
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random(shape, dtype=np.float32), np.eye(4)), path)
    return str(path)


def test_inputs_of_a_data_set_and_of_files(tmp_path):
    root = write_acdc_phantom(tmp_path / "acdc", num_patients=3, num_frames=3, shape=(16, 16, 2))
    assert [item["patient"] for item in cine_inputs(root)] == ["patient001", "patient002", "patient003"]
    assert len(cine_inputs(root, "validation")) == 1 and "target" in cine_inputs(root, "validation")[0]
    assert cine_inputs(image="a/b.nii.gz") == [{"image": "a/b.nii.gz", "patient": "b"}]
    pair = cine_inputs(image=tmp_path / "b.nii", target=tmp_path / "c.nii")
    assert pair == [{"image": str(tmp_path / "b.nii"), "patient": "b", "target": str(tmp_path / "c.nii")}]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "neither dataset_dir nor image is given"),
        ({"target": "b.nii"}, "target b.nii is given without image"),
        ({"dataset_dir": "d", "image": "b.nii"}, "both dataset_dir d and image b.nii"),
        ({"dataset_dir": "absent"}, "no such folder"),
    ],
)
def test_inputs_that_do_not_make_sense(given, message):
    with pytest.raises(DataError, match=message):
        cine_inputs(**given)


def test_seeds_are_for_generation(tmp_path):
    data = [
        {"image": write(tmp_path / "a.nii"), "patient": "a"},
        {"image": write(tmp_path / "b.nii"), "patient": "b", "target": "b_es.nii"},
        {"image": write(tmp_path / "c.nii", frames=4), "patient": "c"},
    ]

    def listed(mode):
        samples = CineSamples(data, load, mode, num_samples=2, first_seed=5)
        return [(item["patient"], item.get("seed")) for item in samples.data]

    assert listed("auto") == [("a", 5), ("a", 6), ("b", None), ("c", None)]
    assert listed("interpolation") == [("a", None), ("b", None), ("c", None)]
    assert listed("generation") == [(name, seed) for name in "abc" for seed in (5, 6)]


def test_items_and_one_reading_for_all_seeds(tmp_path):
    data = [{"image": write(tmp_path / f"{name}.nii"), "patient": name, "series": "s.nii"} for name in "ab"]
    samples = CineSamples(data, load, "generation", num_samples=3)
    items = [samples[index] for index in range(len(samples))]
    assert [item["seed"] for item in items] == [0, 1, 2] * 2 and [item["index"] for item in items] == list(range(6))
    assert [item["patient"] for item in items] == ["a"] * 3 + ["b"] * 3
    assert load.seen == ["a", "b"] and torch.equal(items[0]["image"], items[2]["image"])
    assert items[0]["image"].shape == (1, 4, 4, 3) and items[0]["series"] == "s.nii"
    assert "seed" not in CineSamples(data, load, "interpolation")[0]
    with pytest.raises(IndexError):
        samples[6]


def test_finished_cines_are_left_out(tmp_path):
    done = tmp_path / "a_seed_000000_4d.nii.gz"
    done.write_bytes(b"x")
    record = {"name": "a_seed_000000", "file": done.name, "sha256": file_sha256(done), "seed": 0}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(record) + "\n")
    data = [{"image": write(tmp_path / "a.nii"), "patient": "a"}]
    samples = CineSamples(data, load, num_samples=2, output_dir=tmp_path)
    assert [item["seed"] for item in samples.data] == [1]
    assert len(CineSamples(data, load, num_samples=1, output_dir=tmp_path)) == 0


def test_a_bad_file_is_named_when_it_is_taken(tmp_path):
    def fail(item):
        raise RuntimeError("broken")

    samples = CineSamples([{"image": str(tmp_path / "absent.nii"), "patient": "a"}], fail)
    with pytest.raises(DataError, match="absent.nii"):
        samples[0]


def test_arguments():
    with pytest.raises(ValueError, match="mode must be one of"):
        CineSamples([], load, "both")
    for wrong in (0, 1.5, True):
        with pytest.raises(ValueError, match="num_samples must be an integer above 0"):
            CineSamples([], load, num_samples=wrong)
