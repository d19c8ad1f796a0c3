"""The DiffMa bundle's configs do what they promise: both stages train and resume, models and baselines are scored."""

from __future__ import annotations

import json
import math
import shutil

import nibabel as nib
import pytest
import torch

from monai_mamba_gen.engines import TranslationPrepareBatch


def history(folder):
    return [json.loads(line) for line in open(folder / "history.jsonl")]


def weights(root):
    names = {"weights": "model.pt", "autoencoder_weights": "autoencoder.pt"}
    return {key: str(root / "models" / name) for key, name in names.items()}


def read(path):
    return torch.load(path, weights_only=True)


def report(folder):
    return json.loads((folder / "report.json").read_text())


def test_first_stage_writes_an_autoencoder_with_its_scale(autoencoder):
    assert sorted(path.name for path in (autoencoder / "models").iterdir()) == [
        "autoencoder",
        "autoencoder.json",
        "autoencoder.pt",
    ]
    state = read(autoencoder / "models" / "autoencoder.pt")
    assert float(state["scale_factor"]) > 0
    (line,) = history(autoencoder / "eval" / "autoencoder")
    assert math.isfinite(line["train_loss"]) and math.isfinite(line["val_loss"])
    assert line["latent_scale"] > 0 and line["iteration"] == 2
    facts = json.loads((autoencoder / "models" / "autoencoder.json").read_text())
    assert facts["ct_window"] == [-1000, 1000] and facts["latent_channels"] == 2


def test_second_stage_writes_model_checkpoint_history_and_curve(diffma_trained):
    names = {path.name for path in (diffma_trained / "models").iterdir()}
    assert names >= {"checkpoint_epoch=1.pt", "model.json", "model.pt", "autoencoder.pt"}
    (line,) = history(diffma_trained / "eval")
    assert line["epoch"] == 1 and line["iteration"] == 2
    assert math.isfinite(line["train_loss"]) and math.isfinite(line["val_loss"])
    assert (diffma_trained / "eval" / "curve.png").is_file()
    facts = json.loads((diffma_trained / "models" / "model.json").read_text())
    assert facts["model"] == "diffma" and facts["scan_order"] == "spiral" and facts["mr_percentiles"] == [0.5, 99.5]
    model, checkpoint = (read(diffma_trained / "models" / name) for name in ("model.pt", "checkpoint_epoch=1.pt"))
    assert all(torch.equal(value, checkpoint["ema"][key]) for key, value in model.items())
    assert not any("autoencoder" in key for key in model), "the autoencoder has a file of its own"


def test_slices_are_kept_for_the_next_run(run, pairs, autoencoder, tmp_path):
    settings = {**run.diffma_tiny, **weights(autoencoder), "dataset_dir": str(pairs), "cache": True}
    run.here(run.diffma, "training", "train", bundle_root=str(tmp_path), **settings)
    files = sorted(path for path in (tmp_path / "eval" / "cache").rglob("*") if path.is_file())
    before = [path.stat().st_mtime_ns for path in files]
    assert files
    run.here(run.diffma, "training", "train", bundle_root=str(tmp_path), **settings)
    assert sorted(path for path in (tmp_path / "eval" / "cache").rglob("*") if path.is_file()) == files
    assert [path.stat().st_mtime_ns for path in files] == before


def test_interrupted_and_resumed_equals_uninterrupted(run, pairs, autoencoder, tmp_path, monkeypatch):
    settings = {**run.diffma_tiny, "dataset_dir": str(pairs), "max_epochs": 2, "condition_dropout": 0.3}
    settings["autoencoder_weights"] = weights(autoencoder)["autoencoder_weights"]
    run.here(run.diffma, "training", "train", bundle_root=str(tmp_path / "whole"), **settings)
    set_step = TranslationPrepareBatch.set_step

    def interrupt(self, step):
        if step == 4:  # in the middle of the second epoch
            raise KeyboardInterrupt
        set_step(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(TranslationPrepareBatch, "set_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run.here(run.diffma, "training", "train", bundle_root=str(tmp_path / "parts"), **settings)
    torch.rand(7)  # what other code draws in the meantime must not matter
    run.here(run.diffma, "training", "train", bundle_root=str(tmp_path / "parts"), resume="true", **settings)
    whole, parts = history(tmp_path / "whole" / "eval"), history(tmp_path / "parts" / "eval")
    assert [(x["train_loss"], x["val_loss"]) for x in whole] == [(x["train_loss"], x["val_loss"]) for x in parts]
    whole, parts = (read(tmp_path / name / "models" / "model.pt") for name in ("whole", "parts"))
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())


def test_the_first_stage_resumes(run, pairs, tmp_path):
    settings = {**run.diffma_tiny, "dataset_dir": str(pairs)}
    for name, epochs, resume in (("a", 2, False), ("b", 1, False), ("b", 2, True)):
        more = {"bundle_root": str(tmp_path / name), "autoencoder_epochs": epochs, "resume": resume}
        run.here(run.diffma, "training", "train_autoencoder", **settings | more)
    whole, parts = (read(tmp_path / name / "models" / "autoencoder.pt") for name in "ab")
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())


def test_the_embedder_by_itself_and_frozen_in_the_model(run, pairs, autoencoder, tmp_path):
    settings = {**run.diffma_tiny, "dataset_dir": str(pairs), "bundle_root": str(tmp_path)}
    settings["autoencoder_weights"] = weights(autoencoder)["autoencoder_weights"]
    run.here(run.diffma, "training", "train_embedder", **settings)
    embedder = read(tmp_path / "models" / "embedder.pt")
    run.here(run.diffma, "training", "train", embedder_weights=str(tmp_path / "models" / "embedder.pt"), **settings)
    model = read(tmp_path / "models" / "model.pt")
    assert all(torch.equal(value, model[f"embedder.{key}"]) for key, value in embedder.items())


OPTIONS = {
    "pixels": {"latent_mode": "pixel", "image_size": [16, 16]},
    "unet": {"model": "unet", "unet_channels": [32, 32], "unet_attention_levels": [False, False]},
    "options": {
        "learn_sigma": True,
        "concat_context": True,
        "slice_position": True,
        "condition_dropout": 0.5,
        "guidance_scale": 1.5,
        "direction": "both",
        "sampler": "ddpm",
        "prediction_type": "v_prediction",
        "scan_order": "raster",
    },
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_train_and_are_scored(run, pairs, autoencoder, tmp_path, name):
    settings = {**run.diffma_tiny, **OPTIONS[name], "bundle_root": str(tmp_path), "dataset_dir": str(pairs)}
    settings["autoencoder_weights"] = weights(autoencoder)["autoencoder_weights"]
    run.here(run.diffma, "training", "train", **settings)
    run.here(run.diffma, "evaluating", "train", "evaluate", **settings)
    (row,) = report(tmp_path / "eval")["rows"]
    assert all(math.isfinite(row[key]) for key in ("mae", "psnr", "ssim")) and 0 <= row["mae"] <= 1


def test_both_directions_of_one_model_write_ct_and_mr(run, pairs, autoencoder, tmp_path):
    settings = {**run.diffma_tiny, "direction": "both", "bundle_root": str(tmp_path), "dataset_dir": str(pairs)}
    settings["autoencoder_weights"] = weights(autoencoder)["autoencoder_weights"]
    run.here(run.diffma, "training", "train", **settings)
    tiny = {**run.diffma_tiny_inference, **settings, "num_directions": 2, "split": "validation"}
    for direction in ("ct2mr", "mr2ct"):
        more = tiny | {"direction": direction, "save_dir": str(tmp_path / direction)}
        run.here(run.diffma, "inferring", "inference", **more)
    (mr,), (ct,) = (list((tmp_path / name).glob("*.nii.gz")) for name in ("ct2mr", "mr2ct"))
    assert mr.name.endswith("_mr.nii.gz") and ct.name.endswith("_ct.nii.gz")
    assert 0 <= nib.load(mr).get_fdata().min() and nib.load(mr).get_fdata().max() <= 1
    hounsfield = nib.load(ct).get_fdata()
    assert hounsfield.min() == -1000 and -1000 < hounsfield.max() <= 1000


def test_evaluation_scores_held_out_patients(run, pairs, diffma_trained, tmp_path):
    settings = {**run.diffma_tiny, **weights(diffma_trained), "dataset_dir": str(pairs), "num_averages": 2}
    run.here(run.diffma, "evaluating", "train", "evaluate", bundle_root=str(tmp_path), **settings)
    result = report(tmp_path / "eval")
    assert result["n_patients"] == 1 and "[-1000, 1000]" in json.dumps(result["preprocessing"])
    (row,) = result["rows"]
    assert row["region"] == "brain" and row["std"] > 0
    assert (tmp_path / "eval" / f"{row['patient']}.png").is_file() and (tmp_path / "eval" / "report.md").is_file()
    assert not (tmp_path / "models").exists(), "an evaluation saves no weights"


def test_baselines_need_no_weights_and_the_map_is_the_best_of_them(run, pairs, tmp_path):
    scores = {}
    for model in ("identity", "map"):
        settings = {**run.diffma_tiny, "dataset_dir": str(pairs), "model": model, "split": "all"}
        run.here(run.diffma, "evaluating", "train", "evaluate", bundle_root=str(tmp_path / model), **settings)
        result = report(tmp_path / model / "eval")
        assert result["model"] == model and result["n_patients"] == 4
        scores[model] = result["means"]["psnr"]["mean"]
    assert scores["map"] > scores["identity"] + 1


def test_demo_over_every_config_needs_no_data(run, tmp_path):
    phantom = "$monai_mamba_gen.data.synthrad_phantom_dir(@output_dir + '/phantom', num_patients=3, "
    settings = {**run.diffma_tiny_inference, "bundle_root": str(tmp_path)}
    settings["dataset_dir"] = phantom + "regions=('pelvis',), shape=(32, 32, 2), seed=@seed)"
    short = {**settings, "autoencoder_epochs": 1, "max_epochs": 1, "batch_size": 2, "autoencoder_batch_size": 2}
    run.here(run.diffma, "training", "train_autoencoder", "demo", **short)
    run.here(run.diffma, "training", "train", "demo", **short)
    run.here(run.diffma, "evaluating", "train", "evaluate", "demo", **settings)
    run.here(run.diffma, "inferring", "inference", "demo", **settings)
    demo = tmp_path / "eval" / "demo"
    assert (demo / "models" / "model.pt").is_file() and (demo / "report.json").is_file()
    assert len(list((demo / "synthetic").glob("*_mr.nii.gz"))) == 1
    assert not (tmp_path / "models").exists()


def test_demo_over_train_alone_trains_the_first_stage_too(run, tmp_path):
    shutil.copytree(run.diffma / "configs", tmp_path / "configs")
    config = json.loads((run.diffma / "configs" / "demo.json").read_text())
    config |= {"autoencoder_epochs": 1, "autoencoder_batch_size": 2}
    (tmp_path / "configs" / "demo.json").write_text(json.dumps(config))
    phantom = "$monai_mamba_gen.data.synthrad_phantom_dir(@output_dir + '/phantom', num_patients=3, "
    settings = {**run.diffma_tiny_inference, "bundle_root": str(tmp_path), "max_epochs": 1, "batch_size": 2}
    settings["dataset_dir"] = phantom + "regions=('pelvis',), shape=(32, 32, 2), seed=@seed)"
    run.here(tmp_path, "training", "train", "demo", **settings)
    models = tmp_path / "eval" / "demo" / "models"
    assert (models / "model.pt").is_file() and (models / "autoencoder.pt").is_file()
    written = (models / "autoencoder.pt").stat().st_mtime_ns
    run.here(tmp_path, "training", "train", "demo", **settings)
    assert (models / "autoencoder.pt").stat().st_mtime_ns == written
