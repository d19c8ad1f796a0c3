"""A whole generation run through MONAI's evaluator: files, manifest, marks, grid, and being killed."""

from __future__ import annotations

import json
import os
import time

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image
from torch import nn

from monai_mamba_gen.data import read_manifest, read_provenance
from monai_mamba_gen.handlers import SyntheticImageSaver, synthetic_folder, synthetic_saver
from monai_mamba_gen.utils import DataError, root_cause, state_dict_sha256, weights_sha256

CONFIG = {
    "dataset": {
        "_target_": "monai_mamba_gen.data.SeedDataset",
        "seeds": 7,
        "spatial_size": [8, 6],
        "spacing": [1.5, 1.25],
    },
    "dataloader": {
        "_target_": "DataLoader",
        "dataset": "@dataset",
        "batch_sampler": {
            "_target_": "monai_mamba_gen.data.SeedBatchSampler",
            "dataset": "@dataset",
            "batch_size": 2,
            "output_dir": "@output_dir",
        },
    },
    "inferer": {
        "_target_": "monai_mamba_gen.inferers.SamplingInferer",
        "scheduler": {
            "_target_": "monai_mamba_gen.networks.schedulers.RespacedDDPMScheduler",
            "num_train_timesteps": 20,
        },
        "num_inference_steps": 3,
        "progress": False,
    },
    "saver": {
        "_target_": "monai_mamba_gen.handlers.SyntheticImageSaver",
        "output_dir": "@output_dir",
        "output_ext": ".nii.gz",
        "model_name": "toy",
        "sampler": "@inferer",
    },
    "evaluator": {
        "_target_": "SupervisedEvaluator",
        "device": "cpu",
        "val_data_loader": "@dataloader",
        "network": "@network",
        "inferer": "@inferer",
        "prepare_batch": {"_target_": "monai.engines.PrepareBatchExtraInput", "extra_keys": {"seeds": "seed"}},
        "val_handlers": ["@saver"],
    },
    "run": ["$@evaluator.run()", "$@saver.finish()"],
}


class TwoConvs(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 1, 3, padding=1))

    def forward(self, x, timesteps=None, context=None):
        return self.layers(x)


def generate(folder, **overrides):
    parser = ConfigParser({**json.loads(json.dumps(CONFIG)), "output_dir": str(folder), "network": None})
    parser["network"] = TwoConvs()
    parser.update(overrides)
    parser.get_parsed_content("run")
    return parser


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name.startswith("seed_")}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    generate(folder)
    return folder


def test_files_and_marks(reference):
    assert sorted(contents(reference)) == [f"seed_{seed:06d}.nii.gz" for seed in range(7)]
    digest = state_dict_sha256(TwoConvs())
    for seed in range(7):
        path = reference / f"seed_{seed:06d}.nii.gz"
        image, marks = nib.load(path), read_provenance(path)
        assert image.shape == (8, 6) and np.diag(image.affine).tolist() == [1.5, 1.25, 1.0, 1.0]
        assert bytes(image.header["descrip"]).startswith(b"SYNTHETIC toy")
        assert (marks["seed"], marks["weights_sha256"], marks["steps"]) == (seed, digest, 3)
        assert (marks["sampler"], marks["synthetic"], marks["model"]) == ("RespacedDDPMScheduler", True, "toy")


def test_each_seed_has_its_own_image(reference):
    """The seeds reach the inferer: a run of one batch per image gives the same images."""
    generator = CONFIG["inferer"]
    inferer = ConfigParser(generator).get_parsed_content()
    for seed in (0, 5):
        image = inferer(torch.zeros(1, 1, 8, 6), TwoConvs(), seeds=[seed])[0, 0]
        saved = nib.load(reference / f"seed_{seed:06d}.nii.gz").get_fdata()
        np.testing.assert_allclose(saved, image.numpy(), atol=1e-5)


def test_manifest(reference):
    lines = [json.loads(line) for line in (reference / "manifest.jsonl").read_text().splitlines()]
    assert [line["seed"] for line in lines] == list(range(7))
    for line in lines:
        assert weights_sha256(reference / line["file"]) == line["sha256"]
        assert {"model", "weights_sha256", "steps", "sampler", "date", "version"} <= set(line)


def test_grid(reference):
    with Image.open(reference / "grid.png") as grid:
        assert grid.size == (3 * 10 - 2, 3 * 8 - 2)
        pixels = np.asarray(grid)
    first = nib.load(reference / "seed_000000.nii.gz").get_fdata()
    np.testing.assert_allclose(pixels[:6, :8].T / 127.5 - 1, first.clip(-1, 1), atol=1 / 127)


@pytest.mark.parametrize("world_size", [2, 3])
def test_several_processes_write_the_same_files(tmp_path, reference, monkeypatch, world_size):
    monkeypatch.setattr(synthetic_folder.dist, "barrier", lambda: None)
    monkeypatch.setattr(synthetic_folder, "get_world_size", lambda: world_size)
    for rank in reversed(range(world_size)):  # rank 0 last, as if the others had waited at the barrier
        monkeypatch.setattr(synthetic_folder, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(synthetic_folder, "is_main_process", lambda rank=rank: rank == 0)
        share = {"dataloader#batch_sampler#rank": rank, "dataloader#batch_sampler#world_size": world_size}
        generate(tmp_path, **share)
        assert (tmp_path / "grid.png").exists() == (rank == 0)
    assert contents(tmp_path) == contents(reference)
    assert (tmp_path / "grid.png").read_bytes() == (reference / "grid.png").read_bytes()
    assert list(read_manifest(tmp_path)) == list(range(7))
    assert sorted(path.name for path in tmp_path.glob("manifest*")) == ["manifest.jsonl"]


@pytest.mark.parametrize("torn", [False, True])
def test_killed_run_continues(tmp_path, reference, monkeypatch, torn):
    class Killed(BaseException):
        pass

    written = []

    def dies_at_the_fourth(*args, original=synthetic_saver.write_synthetic_image):
        written.append(args[0].name)
        if len(written) == 4:
            raise Killed
        return original(*args)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(synthetic_saver, "write_synthetic_image", dies_at_the_fourth)
        generate(tmp_path)
    manifest = tmp_path / "manifest.jsonl"
    assert list(read_manifest(tmp_path)) == [0, 1] and not (tmp_path / "grid.png").exists()
    if torn:
        manifest.write_bytes(manifest.read_bytes()[:-20])
    again = []
    original = synthetic_saver.write_synthetic_image
    monkeypatch.setattr(
        synthetic_saver, "write_synthetic_image", lambda *args: (again.append(args[0].name), original(*args))[1]
    )
    generate(tmp_path)
    assert len(again) == (7 if torn else 5)
    assert contents(tmp_path) == contents(reference) and list(read_manifest(tmp_path)) == list(range(7))
    assert manifest.read_text().count("\n") == 7
    assert (tmp_path / "grid.png").read_bytes() == (reference / "grid.png").read_bytes()


@pytest.mark.filterwarnings("ignore:.*is empty.*")
def test_finished_run_is_left_alone_and_a_lost_grid_drawn_again(tmp_path):
    generate(tmp_path)
    before, manifest = contents(tmp_path), (tmp_path / "manifest.jsonl").read_bytes()
    (tmp_path / "grid.png").unlink()
    generate(tmp_path)
    assert contents(tmp_path) == before and (tmp_path / "manifest.jsonl").read_bytes() == manifest
    assert (tmp_path / "grid.png").exists()


def test_what_a_killed_run_left_is_tidied_up(tmp_path):
    """A temporary file older than the run is a killed one's; one that is younger could be another's."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, age in ((".seed_000003.nii.gz.4242.tmp", 60), (".seed_000004.nii.gz.4243.tmp", -60)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (time.time() - age, time.time() - age))
    generate(folder)
    assert [path.name for path in folder.glob(".*")] == [".seed_000004.nii.gz.4243.tmp"]


def test_other_settings_are_refused(tmp_path):
    generate(tmp_path)
    weights = tmp_path / "model.pt"
    weights.write_bytes(b"other weights")
    for override, message in (
        ({"inferer#num_inference_steps": 5}, "made with steps 3, not 5"),
        ({"saver#weights_path": str(weights)}, "made with weights_sha256"),
    ):
        with pytest.raises(RuntimeError) as caught:  # MONAI's parser wraps it
            generate(tmp_path, **override)
        error = root_cause(caught.value)
        assert isinstance(error, DataError) and message in str(error)


def test_png_and_weights_file(tmp_path):
    weights = tmp_path / "model.pt"
    torch.save(TwoConvs().state_dict(), weights)
    folder = tmp_path / "images"
    generate(folder, **{"saver#weights_path": str(weights), "saver#output_ext": ".png", "saver#grid_size": 4})
    with Image.open(folder / "seed_000006.png") as image:
        assert image.size == (8, 6) and image.mode == "L" and image.text["Synthetic"] == "true"
    assert read_provenance(folder / "seed_000003.png")["weights_sha256"] == weights_sha256(weights)
    with Image.open(folder / "grid.png") as grid:
        assert grid.size == (2 * 10 - 2, 2 * 8 - 2)


def test_without_decollation(tmp_path, reference):
    generate(tmp_path, **{"evaluator#decollate": False})
    assert contents(tmp_path) == contents(reference)


def test_volumes_and_channels(tmp_path):
    saver = SyntheticImageSaver(tmp_path)
    shapes = {"a": ((1, 4, 5, 6), (4, 5, 6)), "b": ((3, 4, 5), (4, 5, 1, 3)), "c": ((3, 4, 5, 6), (4, 5, 6, 3))}
    for name, (shape, saved) in shapes.items():
        saver._write(f"{name}.nii.gz", torch.rand(shape), None, {})
        assert nib.load(tmp_path / f"{name}.nii.gz").shape == saved
    saver._draw_grid([tmp_path / "a.nii.gz", tmp_path / "c.nii.gz"])
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (10, 5)


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="output_ext must be"):
        SyntheticImageSaver(tmp_path, output_ext="image.png")
    with pytest.raises(ValueError, match="grid_size"):
        SyntheticImageSaver(tmp_path, grid_size=0)
    with pytest.raises(DataError, match="weights file not found"):
        SyntheticImageSaver(tmp_path, weights_path=tmp_path / "model.pt")
