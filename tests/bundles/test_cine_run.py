"""The cine bundle's configs do what they promise: train, resume, score, interpolate, generate."""

from __future__ import annotations

import json
import math
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from monai_mamba_gen.engines import CinePrepareBatch


def history(root):
    return [json.loads(line) for line in open(root / "eval" / "history.jsonl")]


def weights(root):
    return {"weights": str(root / "models" / "model.pt")}


def read(path):
    return torch.load(path, weights_only=True)


def test_training_writes_model_checkpoint_history_and_curve(cine_trained):
    assert sorted(path.name for path in (cine_trained / "models").iterdir()) == [
        "checkpoint_epoch=1.pt",
        "model.json",
        "model.pt",
    ]
    (line,) = history(cine_trained)
    assert line["epoch"] == 1 and line["iteration"] == 3
    assert math.isfinite(line["train_loss"]) and math.isfinite(line["val_loss"])
    assert (cine_trained / "eval" / "curve.png").is_file()
    facts = json.loads((cine_trained / "models" / "model.json").read_text())
    assert facts["model"] == "mstg" and facts["pixdim"] == [4.0, 4.0, 12.0]
    assert facts["prediction_type"] == "v_prediction"
    model, ema = (read(cine_trained / "models" / name) for name in ("model.pt", "checkpoint_epoch=1.pt"))
    assert all(torch.equal(value, ema["ema"][key]) for key, value in model.items())


@pytest.mark.parametrize("model", ["ddm", "voxelmorph", "blend"])
def test_one_key_switches_the_model_under_the_same_losses_and_scores(run, beats, tmp_path, model):
    settings = {**run.cine_tiny, "model": model, "bundle_root": str(tmp_path), "dataset_dir": str(beats)}
    if model != "blend":
        run.here(run.cine, "training", "train", **settings)
        assert math.isfinite(history(tmp_path)[0]["val_loss"])
    run.here(run.cine, "evaluating", "train", "evaluate", **settings)
    report = json.loads((tmp_path / "eval" / "report.json").read_text())
    assert model in json.dumps(report)


def test_interrupted_and_resumed_equals_uninterrupted(run, beats, tmp_path, monkeypatch):
    settings = {**run.cine_tiny, "dataset_dir": str(beats), "max_epochs": 2, "save_interval": 1}
    run.here(run.cine, "training", "train", bundle_root=str(tmp_path / "whole"), **settings)
    set_step = CinePrepareBatch.set_step

    def interrupt(self, step):
        if step == 5:  # in the middle of the second epoch
            raise KeyboardInterrupt
        set_step(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(CinePrepareBatch, "set_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run.here(run.cine, "training", "train", bundle_root=str(tmp_path / "parts"), **settings)
    torch.rand(7)  # what other code draws in the meantime must not matter
    run.here(run.cine, "training", "train", bundle_root=str(tmp_path / "parts"), resume="true", **settings)
    whole, parts = history(tmp_path / "whole"), history(tmp_path / "parts")
    assert [(x["train_loss"], x["val_loss"]) for x in whole] == [(x["train_loss"], x["val_loss"]) for x in parts]
    whole, parts = (read(tmp_path / name / "models" / "model.pt") for name in ("whole", "parts"))
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())
    start = read(tmp_path / "whole" / "models" / "checkpoint_epoch=1.pt")["network"]
    assert any(not torch.equal(value, whole[key]) for key, value in start.items())


def test_evaluation_scores_true_frames_and_labels(run, beats, cine_trained, tmp_path):
    settings = {**run.cine_tiny, **weights(cine_trained), "dataset_dir": str(beats), "split": "all"}
    run.here(run.cine, "evaluating", "train", "evaluate", bundle_root=str(tmp_path), **settings)
    report = json.loads((tmp_path / "eval" / "report.json").read_text())
    assert len(report["rows"]) == 4 and "[4.0, 4.0, 12.0]" in json.dumps(report["preprocessing"])
    for row in report["rows"]:
        assert row["mode"] == "interpolation" and row["compared_frames"] == row["true_frames"] >= 1
        assert row["dice_phase_0"] == 1 and math.isfinite(row["psnr"]) and 0 <= row["dice_mean"] <= 1
    assert len((tmp_path / "eval" / "report.csv").read_text().splitlines()) >= 5
    assert not (tmp_path / "models").exists(), "an evaluation saves no weights"


def test_evaluation_of_generated_beats(run, beats, cine_trained, tmp_path):
    settings = {**run.cine_tiny, **weights(cine_trained), "dataset_dir": str(beats), "num_samples": 2}
    settings |= {"mode": "generation", "num_inference_steps": 2}
    run.here(run.cine, "evaluating", "train", "evaluate", bundle_root=str(tmp_path), **settings)
    rows = json.loads((tmp_path / "eval" / "report.json").read_text())["rows"]
    assert [row["seed"] for row in rows] == [0, 1] and {row["mode"] for row in rows} == {"generation"}


def series(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "manifest.jsonl"}


def test_inference_alone_from_another_folder_and_continued(run, beats, cine_trained, tmp_path, monkeypatch):
    """inference.json and model.pt are enough; a folder with some files gone is completed with the same bytes."""
    for folder in ("configs", "models", "elsewhere"):
        (tmp_path / "copy" / folder).mkdir(parents=True)
    shutil.copy(run.cine / "configs" / "inference.json", tmp_path / "copy" / "configs")
    shutil.copy(cine_trained / "models" / "model.pt", tmp_path / "copy" / "models")
    monkeypatch.chdir(tmp_path / "copy" / "elsewhere")
    settings = {**run.cine_tiny_generation, "bundle_root": str(tmp_path / "copy"), "dataset_dir": str(beats)}
    settings |= {"save_frames": True, "save_displacement": True}
    run.here(tmp_path / "copy", "inferring", "inference", **settings)
    folder = tmp_path / "copy" / "eval" / "synthetic"
    before = series(folder)
    expected = {"patient001_4d.nii.gz", "patient001_4d_gt.nii.gz", "patient001.gif", "patient001_strip.png"}
    expected |= {"patient001_displacement.nii.gz", "patient001_frame04.nii.gz"}
    assert expected <= set(before) and "patient004_4d.nii.gz" in before
    made = nib.load(folder / "patient001_4d.nii.gz")
    source = nib.load(next((beats / "training" / "patient001").glob("*_4d.nii.gz")))
    assert made.shape == (32, 32, 4, 4) and np.allclose(made.affine, source.affine)
    assert made.header.get_zooms()[:3] == source.header.get_zooms()[:3] and made.header.get_zooms()[3] > 0
    np.testing.assert_allclose(made.get_fdata()[..., 0], source.get_fdata()[..., 0], atol=1e-3)
    records = [json.loads(line) for line in open(folder / "manifest.jsonl")]
    assert [record["patient"] for record in records] == [f"patient{n:03d}" for n in range(1, 5)]
    assert all(len(record["weights_sha256"]) == 64 and record["kind"] == "interpolation" for record in records)

    (folder / "patient002_4d.nii.gz").unlink()
    lines = (folder / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "manifest.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:20])
    run.here(tmp_path / "copy", "inferring", "inference", **settings)
    assert series(folder) == before
    run.here(tmp_path / "copy", "inferring", "inference", **settings)  # nothing left to do
    assert series(folder) == before and len(open(folder / "manifest.jsonl").readlines()) == 4
    assert not any((tmp_path / "copy" / "elsewhere").iterdir())


def test_one_volume_and_seeds_give_beats(run, beats, cine_trained, tmp_path):
    image = next(path for path in (beats / "training" / "patient001").glob("*_frame01.nii.gz"))
    settings = {**run.cine_tiny_generation, **weights(cine_trained), "image": str(image), "first_seed": 3}
    settings |= {"num_samples": 2, "gif": False, "strip": "false", "num_train_timesteps": 2000}
    run.here(run.cine, "inferring", "inference", bundle_root=str(tmp_path), **settings)
    folder = tmp_path / "eval" / "synthetic"
    names = [f"{image.name.removesuffix('.nii.gz')}_seed_{seed:06d}_4d.nii.gz" for seed in (3, 4)]
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.jsonl", *names]
    first, second = (nib.load(folder / name) for name in names)
    assert first.shape == (32, 32, 4, 4) and np.allclose(first.affine, nib.load(image).affine)
    np.testing.assert_allclose(first.get_fdata()[..., 0], nib.load(image).get_fdata(), atol=1e-3)
    assert not np.array_equal(first.get_fdata(), second.get_fdata())
    records = [json.loads(line) for line in open(folder / "manifest.jsonl")]
    assert [record["seed"] for record in records] == [3, 4] and records[0]["phases"][0] == 0


def test_a_whole_cine_as_image_is_interpolated(run, beats, cine_trained, tmp_path):
    image = next((beats / "training" / "patient001").glob("*_4d.nii.gz"))
    settings = {**run.cine_tiny_generation, **weights(cine_trained), "image": str(image), "num_samples": 5}
    run.here(run.cine, "inferring", "inference", bundle_root=str(tmp_path), **settings)
    (record,) = [json.loads(line) for line in open(tmp_path / "eval" / "synthetic" / "manifest.jsonl")]
    assert record["kind"] == "interpolation" and record["phases"] == pytest.approx([0, 1 / 3, 2 / 3, 1], abs=1e-5)


def test_blending_needs_no_weights(run, beats, tmp_path):
    settings = {**run.cine_tiny_generation, "model": "blend", "dataset_dir": str(beats), "split": "validation"}
    run.here(run.cine, "inferring", "inference", bundle_root=str(tmp_path), **settings)
    (path,) = (tmp_path / "eval" / "synthetic").glob("*_4d.nii.gz")
    frames = nib.load(path).get_fdata()
    np.testing.assert_allclose(frames[..., 1], (2 * frames[..., 0] + frames[..., 3]) / 3, rtol=1e-4, atol=1e-2)


def label_request(parser, path, network, **options):
    """What MONAI Label does with a request, see its BundleInferTask."""
    parser["displayable_configs"].update(options)
    parser.parse()
    data = parser.get_parsed_content("preprocessing")({"image": str(path), "image_path": str(path), **options})
    pred = parser.get_parsed_content("inferer")(data["image"][None], network)
    return data["image"], parser.get_parsed_content("postprocessing")({**data, "pred": pred[0]})["pred"]


def test_parts_that_monai_label_takes(run, beats, cine_trained):
    """One request returns one frame of a generated beat, on the grid of the file."""
    config = ConfigParser.load_config_file(run.cine / "configs" / "inference.json")
    parser = ConfigParser(config | {**run.cine_tiny_generation, "device": "cpu"})
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(read(cine_trained / "models" / "model.pt"))
    path = next((beats / "training" / "patient001").glob("*_frame01.nii.gz"))
    source = nib.load(path)
    frames = {}
    for frame, seed in ((0, 0), (1, 0), (1, 7)):
        image, pred = label_request(parser, path, network, frame=frame, seed=seed)
        assert pred.shape == (1, *source.shape) and np.allclose(pred.affine.numpy(), source.affine)
        # what MONAI Label compares with to see whether it has to resize
        assert tuple(int(side) for side in image.meta["spatial_shape"]) == source.shape
        frames[frame, seed] = pred
    assert not torch.equal(frames[0, 0], frames[1, 0]) and not torch.equal(frames[1, 0], frames[1, 7])
    low, high = np.percentile(source.get_fdata(), [0, 100])  # grey values are the image's
    assert all(low - 1e-3 <= float(each.min()) < float(each.max()) <= high * 1.001 for each in frames.values())
    # all frames together would be no NIfTI: the one that is the least like the first
    assert label_request(parser, path, network, frame=-1, seed=0)[1].shape == (1, *source.shape)


def test_demo_over_train_needs_no_data(run, tmp_path):
    phantom = "$monai_mamba_gen.data.phantom_dataset_dir(@output_dir + '/phantom', num_patients=3, num_frames=8, "
    settings = {**run.cine_tiny_generation, "bundle_root": str(tmp_path)}
    settings["dataset_dir"] = phantom + "shape=(32, 32, 2), spacing=(3.0, 3.0, 12.0), seed=@seed)"
    training = {**settings, "max_epochs": 1, "num_supervised_frames": 1}
    run.here(run.cine, "training", "train", "demo", **training)
    run.here(run.cine, "evaluating", "train", "evaluate", "demo", **settings)
    run.here(run.cine, "inferring", "inference", "demo", **settings)
    demo = tmp_path / "eval" / "demo"
    assert (demo / "models" / "model.pt").is_file() and (demo / "report.json").is_file()
    assert len(list((demo / "synthetic").glob("*_4d.nii.gz"))) == 1
    assert not (tmp_path / "models").exists()
