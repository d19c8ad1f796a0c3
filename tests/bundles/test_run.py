"""The bundle's configs do what they promise: train, resume, score, generate, from any folder."""

from __future__ import annotations

import json
import math
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from monai_mamba_gen.engines import SeededDiffusionPrepareBatch


def flat(tree, prefix=""):
    """Return every tensor and number of nested containers by path."""
    if isinstance(tree, dict):
        return {k: v for key, value in tree.items() for k, v in flat(value, f"{prefix}/{key}").items()}
    if isinstance(tree, (list, tuple)):
        return flat(dict(enumerate(tree)), prefix)
    return {prefix: tree}


def same(first, second) -> bool:
    first, second = (flat(torch.load(path, weights_only=True)) for path in (first, second))
    return first.keys() == second.keys() and all(
        torch.equal(value, second[key]) if isinstance(value, torch.Tensor) else value == second[key]
        for key, value in first.items()
    )


def history(root):
    return [json.loads(line) for line in open(root / "eval" / "history.jsonl")]


def losses(root):
    return [(line["epoch"], line["iteration"], line["train_loss"], line["val_loss"]) for line in history(root)]


def test_training_writes_model_checkpoint_history_curve_and_samples(trained):
    found = sorted(path.name for path in (trained / "models").iterdir())
    assert found == ["checkpoint_epoch=1.pt", "model.json", "model.pt"]
    (line,) = history(trained)
    assert line["epoch"] == 1 and line["iteration"] == 6
    assert math.isfinite(line["train_loss"]) and math.isfinite(line["val_loss"])
    assert (trained / "eval" / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert (trained / "eval" / "samples" / "epoch_0001.png").is_file()
    model = torch.load(trained / "models" / "model.pt", weights_only=True)
    ema = torch.load(trained / "models" / "checkpoint_epoch=1.pt", weights_only=True)["ema"]
    assert all(torch.equal(value, ema[key]) for key, value in model.items())


def test_tensorboard_has_losses_and_pictures(trained):
    events = EventAccumulator(str(trained / "eval" / "tensorboard")).Reload()
    assert {"train_loss", "val_loss"} <= set(events.Tags()["scalars"]) and events.Tags()["images"] == ["samples"]
    assert [event.step for event in events.Scalars("train_loss")] == [1, 2, 3, 4, 5, 6]
    assert events.Scalars("val_loss")[0].value == pytest.approx(history(trained)[0]["val_loss"], rel=1e-6)


def test_interrupted_and_resumed_equals_uninterrupted(run, phantoms, tmp_path, monkeypatch):
    settings = {**run.tiny, "dataset_dir": str(phantoms), "max_epochs": 2}
    run.here(run.acdc, "training", "train", bundle_root=str(tmp_path / "whole"), **settings)

    set_step = SeededDiffusionPrepareBatch.set_step

    def interrupt(self, step):
        if step == 9:  # in the middle of the second epoch
            raise KeyboardInterrupt
        set_step(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(SeededDiffusionPrepareBatch, "set_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run.here(run.acdc, "training", "train", bundle_root=str(tmp_path / "parts"), **settings)
    assert [line[:2] for line in losses(tmp_path / "parts")] == [(1, 6)]
    torch.rand(7)  # what other code draws in the meantime must not matter
    # "true" and not True: that is what arrives when it is typed on the command line
    run.here(run.acdc, "training", "train", bundle_root=str(tmp_path / "parts"), resume="true", **settings)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    for name in ("model.pt", "checkpoint_epoch=1.pt", "checkpoint_epoch=2.pt"):
        assert same(tmp_path / "whole" / "models" / name, tmp_path / "parts" / "models" / name), name
    assert not same(*(tmp_path / "whole" / "models" / f"checkpoint_epoch={epoch}.pt" for epoch in (1, 2)))


def test_evaluation_writes_report_and_picture(run, phantoms, trained, extractor, tmp_path):
    run.here(
        run.acdc,
        "evaluating",
        "train",
        "evaluate",
        extra=extractor,
        bundle_root=str(tmp_path),
        dataset_dir=str(phantoms),
        weights=str(trained / "models" / "model.pt"),
        num_samples=6,
        **run.tiny,
    )
    report = json.loads((tmp_path / "eval" / "report.json").read_text())
    assert report["n_fake"] == 6 and report["n_real"] == 8 and report["n_floor"] == 6
    assert "random convolutions" in report["extractor"] and report["distance_label"] != "FID"
    assert math.isfinite(report["synthetic_vs_real"]["frechet_distance"])
    assert report["warnings"], "so few images deserve a warning"
    assert (tmp_path / "eval" / "real_vs_synthetic.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "models").exists(), "an evaluation saves no weights"


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("seed_*"))}


def test_inference_alone_from_another_folder_and_continued(run, trained, tmp_path, monkeypatch):
    """inference.json and model.pt are enough; a folder with some files gone is completed with the same bytes."""
    for folder in ("configs", "models", "elsewhere"):
        (tmp_path / "copy" / folder).mkdir(parents=True)
    shutil.copy(run.acdc / "configs" / "inference.json", tmp_path / "copy" / "configs")
    shutil.copy(trained / "models" / "model.pt", tmp_path / "copy" / "models")
    monkeypatch.chdir(tmp_path / "copy" / "elsewhere")
    settings = {**run.tiny_generation, "bundle_root": str(tmp_path / "copy"), "num_samples": 6, "first_seed": 3}
    run.here(tmp_path / "copy", "inferring", "inference", **settings)
    folder = tmp_path / "copy" / "eval" / "synthetic"
    before = files(folder)
    assert list(before) == [f"seed_{seed:06d}.nii.gz" for seed in range(3, 9)]
    image = nib.load(folder / "seed_000005.nii.gz")
    assert image.shape[:2] == (16, 16) and image.header.get_zooms()[:2] == (1.5, 1.5)
    assert bytes(image.header["descrip"]).startswith(b"SYNTHETIC")
    records = [json.loads(line) for line in open(folder / "manifest.jsonl")]
    assert [record["seed"] for record in records] == list(range(3, 9))
    assert all(record["steps"] == 3 and len(record["weights_sha256"]) == 64 for record in records)
    assert (folder / "grid.png").is_file()

    # as after a kill: a file gone, the manifest without its last lines and with half of one
    (folder / "seed_000004.nii.gz").unlink()
    (folder / "grid.png").unlink()
    lines = (folder / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "manifest.jsonl").write_bytes(b"".join(lines[:4]) + lines[4][:20])
    run.here(tmp_path / "copy", "inferring", "inference", **settings)
    assert files(folder) == before
    assert [json.loads(line)["seed"] for line in open(folder / "manifest.jsonl")] == list(range(3, 9))
    (folder / "grid.png").unlink()
    run.here(tmp_path / "copy", "inferring", "inference", **settings)  # nothing left to generate
    assert files(folder) == before and (folder / "grid.png").is_file()
    assert not any((tmp_path / "copy" / "elsewhere").iterdir())


def test_an_image_depends_on_its_seed_and_not_on_its_batch(run, trained, tmp_path):
    # Convolutions round differently in batches of 1 and 5. The sampler of v_prediction divides by no small number, so
    # that this stays rounding; without their model.json the weights may be read as such a network's.
    weights = shutil.copy(trained / "models" / "model.pt", tmp_path)
    settings = {**run.tiny_generation, "weights": str(weights), "num_samples": 5, "prediction_type": "v_prediction"}
    arrays = []
    for batch_size in (1, 5):
        root = tmp_path / str(batch_size)
        run.here(run.acdc, "inferring", "inference", bundle_root=str(root), **{**settings, "batch_size": batch_size})
        found = sorted((root / "eval" / "synthetic").glob("seed_*"))
        arrays.append([torch.from_numpy(nib.load(path).get_fdata()) for path in found])
    assert len(arrays[0]) == 5
    for alone, together in zip(*arrays):
        assert torch.allclose(alone, together, rtol=0, atol=1e-5)
    assert not torch.allclose(arrays[0][0], arrays[0][1], rtol=0, atol=1e-2)


def test_parts_that_monai_label_takes(run, phantoms, trained, tmp_path):
    """MONAI Label reads inference.json alone and calls preprocessing, inferer and postprocessing itself."""
    shutil.copy(run.acdc / "configs" / "inference.json", tmp_path)
    volume = nib.load(phantoms / "training" / "patient001" / "patient001_frame01.nii.gz")
    nib.save(nib.Nifti1Image(volume.get_fdata()[..., 0], volume.affine), tmp_path / "slice.nii.gz")
    parser = ConfigParser.load_config_file(tmp_path / "inference.json") | {**run.tiny_generation, "device": "cpu"}
    parser = ConfigParser(parser)
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(trained / "models" / "model.pt", weights_only=True))
    data = parser.get_parsed_content("preprocessing")({"image": str(tmp_path / "slice.nii.gz")})
    result = parser.get_parsed_content("inferer")(data["image"][None], network)
    assert result.shape == (1, 1, 16, 16) and float(result.abs().max()) <= 1.0
    data = parser.get_parsed_content("postprocessing")({**data, "pred": result[0]})
    assert data["pred"].shape == (1, 32, 32, 1)
    assert np.allclose(data["pred"].affine.numpy(), volume.affine, atol=1e-6)
    values = volume.get_fdata()[..., 0]
    assert values.min() <= float(data["pred"].min()) < float(data["pred"].max()) <= values.max()


def test_png_output(run, trained, tmp_path):
    settings = {**run.tiny_generation, "bundle_root": str(tmp_path), "weights": str(trained / "models" / "model.pt")}
    run.here(run.acdc, "inferring", "inference", num_samples=2, output_ext=".png", sampler="ddpm", **settings)
    found = sorted(path.name for path in (tmp_path / "eval" / "synthetic").iterdir())
    assert found == ["grid.png", "manifest.jsonl", "seed_000000.png", "seed_000001.png"]


def test_demo_over_train_needs_no_data(run, extractor, tmp_path):
    phantom = "$monai_mamba_gen.data.phantom_dataset_dir(@output_dir + '/phantom', num_patients=3, num_frames=2, "
    settings = {**run.tiny, "max_epochs": 1, "bundle_root": str(tmp_path), "num_samples": 4}
    settings["dataset_dir"] = phantom + "shape=(32, 32, 2), seed=@seed)"
    run.here(run.acdc, "training", "train", "demo", **settings)
    run.here(run.acdc, "evaluating", "train", "evaluate", "demo", extra=extractor, **settings)
    demo = tmp_path / "eval" / "demo"
    assert (demo / "models" / "model.pt").is_file() and (demo / "report.json").is_file()
    assert (demo / "phantom" / "training" / "patient003" / "Info.cfg").is_file()
    assert not (tmp_path / "models").exists()


def test_command_from_a_foreign_folder(run, phantoms, tmp_path):
    """The very line of the documentation, with relative paths and MONAI's own reading of the arguments."""
    shutil.copytree(run.acdc, tmp_path / "bundle")
    (tmp_path / "elsewhere").mkdir()
    settings = {**run.tiny, "image_size": "[16,16]", "bundle_root": "../bundle", "dataset_dir": str(phantoms)}
    parts = run.arguments(tmp_path / "bundle", "training", "train", **settings)
    result = run.command("-m", *parts, cwd=tmp_path / "elsewhere")
    assert result.code == 0, result.err
    warned = [line for line in result.err.splitlines() if "Warning: " in line]
    assert all("parsing config_file" in line for line in warned), warned  # MONAI's, about configs of strangers
    assert (tmp_path / "bundle" / "models" / "model.pt").is_file()
    assert len((tmp_path / "bundle" / "eval" / "history.jsonl").read_text().splitlines()) == 1
    assert not any((tmp_path / "elsewhere").iterdir())
