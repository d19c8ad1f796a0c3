"""Bad input ends in one line that names file or argument, before the first epoch, and leaves nothing behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch


@pytest.fixture
def broken(phantoms, tmp_path) -> Path:
    """A copy of the phantoms to break."""
    return Path(shutil.copytree(phantoms, tmp_path / "data"))


def first_volume(folder: Path, patient: str = "patient002") -> Path:
    return next(path for path in sorted((folder / "training" / patient).glob("*_frame*")) if "_gt" not in path.name)


def truncate(folder):
    path = first_volume(folder)
    path.write_bytes(path.read_bytes()[:2000])
    return [path.name, "image"]


def colour(folder):
    path = first_volume(folder)
    array = np.asarray(nib.load(path).dataobj).astype(np.uint8)
    voxels = np.stack([array] * 3, axis=-1).view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)
    return [path.name, "3-channel", "image"]


def channels(folder):
    path = first_volume(folder)
    array = np.asarray(nib.load(path).dataobj)
    nib.save(nib.Nifti1Image(np.stack([array] * 3, axis=-1), np.eye(4)), path)
    return [path.name, "3 channels", "image"]


def not_a_number(folder):
    path = first_volume(folder)
    image = nib.load(path)
    array = image.get_fdata(dtype=np.float32)
    array[3, 4, 1] = np.nan
    nib.save(nib.Nifti1Image(array, image.affine), path)
    return [path.name, "1 of 4096 voxels are NaN", "image"]


def no_info(folder):
    (folder / "training" / "patient003" / "Info.cfg").unlink()
    return ["patient003", "Info.cfg is missing"]


def info_without_es(folder):
    path = folder / "training" / "patient003" / "Info.cfg"
    path.write_text("ED: 1\n")
    return [str(path), "ES"]


@pytest.mark.parametrize("harm", [truncate, colour, channels, not_a_number, no_info, info_without_es])
def test_damaged_data(run, refuse, broken, harm):
    # every patient is read, whatever the split: the harm may be in a training or in a validation volume
    expected = harm(broken)
    line = refuse("training", "train", dataset_dir=str(broken), **run.tiny)
    assert all(part in line for part in expected), line


@pytest.mark.parametrize("config", ["train", "evaluate"])
def test_missing_and_empty_folders(run, refuse, tmp_path, trained, config):
    names = ("train",) if config == "train" else ("train", "evaluate")
    run_id = "training" if config == "train" else "evaluating"
    more = {"weights": str(trained / "models" / "model.pt"), **run.tiny}
    assert "dataset_dir" in (line := refuse(run_id, *names, dataset_dir=str(tmp_path / "absent"), **more))
    assert str(tmp_path / "absent") in line
    (tmp_path / "empty").mkdir()
    assert "no patient folders" in (line := refuse(run_id, *names, dataset_dir=str(tmp_path / "empty"), **more))
    assert str(tmp_path / "empty") in line
    assert "dataset_dir is not given" in refuse(run_id, *names, **more)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("preset", "giant", "micro"),
        ("sequence_regeneration", "sometimes", "always"),
        ("sampler", "euler", "ddim"),
        ("phases", "diastole", "ed_es"),
        ("prediction_type", "noise", "epsilon"),
        ("val_fraction", 1.5, "below 1"),
        ("batch_size", 0, "positive"),
        ("num_inference_steps", 0, "1 to 1000"),
        ("ema_decay", 2, "(0, 1)"),
        ("max_grad_norm", -1, "above 0"),
        ("save_interval", 0, "at least 1"),
        ("sample_interval", 0, "at least 1"),
        ("image_size", [16], "spatial_size"),
    ],
)
def test_unknown_settings_of_training(run, refuse, phantoms, name, value, allowed):
    line = refuse("training", "train", dataset_dir=str(phantoms), **{**run.tiny, name: value})
    assert str(value) in line and allowed in line, line
    assert name in line or name in ("save_interval", "sample_interval", "image_size", "ema_decay", "max_grad_norm"), (
        line
    )


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("preset", "giant", "micro"),
        ("sequence_regeneration", "sometimes", "always"),
        ("sampler", "euler", "ddim"),
        ("prediction_type", "v_prediction", "epsilon"),
        ("num_train_timesteps", 500, "1000"),
        ("output_ext", ".jpg", ".nii.gz"),
        ("num_samples", 0, "above 0"),
        ("num_inference_steps", 2000, "1 to 1000"),
        ("spacing", [0, 1], "above 0"),
    ],
)
def test_unknown_settings_of_inference(run, refuse, trained, name, value, allowed):
    settings = {**run.tiny_generation, "weights": str(trained / "models" / "model.pt"), name: value}
    line = refuse("inferring", "inference", **settings)
    assert str(value) in line and allowed in line, line


def test_fewer_images_than_one_batch(run, refuse, phantoms):
    line = refuse("training", "train", dataset_dir=str(phantoms), **{**run.tiny, "batch_size": 64})
    assert "24 images" in line and "batch_size 64" in line


def test_a_training_that_runs_away(run, refuse, phantoms):
    line = refuse("training", "train", dataset_dir=str(phantoms), **{**run.tiny, "learning_rate": 1e30})
    assert line.startswith("step 2, epoch 1: the loss is") and "patient" in line


def test_one_patient_is_not_enough(run, refuse, broken):
    for number in (2, 3, 4):
        shutil.rmtree(broken / "training" / f"patient{number:03d}")
    assert "only one patient" in refuse("training", "train", dataset_dir=str(broken), **run.tiny)


def test_checkpoint_of_another_network(run, refuse, phantoms, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "root")
    other = {**run.tiny, "preset": "tiny", "max_epochs": 2, "resume": True, "dataset_dir": str(phantoms)}
    line = refuse("training", "train", **other)
    assert "checkpoint_epoch=1.pt" in line and "another network" in line


def test_nothing_to_resume_from(run, refuse, phantoms):
    line = refuse("training", "train", dataset_dir=str(phantoms), resume=True, **run.tiny)
    assert "no checkpoint" in line and "models" in line


def harmful(path):
    torch.save({"weight": Path("x")}, path)  # a class of its own, as a pickle that runs code would have


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (None, "no such file"),
        (lambda path: path.write_bytes(b"PK\x03\x04 not a whole file"), "damaged"),
        (lambda path: torch.save(torch.nn.Linear(2, 2).state_dict(), path), "another network"),
        (harmful, "refused"),
    ],
)
def test_weights_that_do_not_fit(run, refuse, tmp_path, make, expected):
    path = tmp_path / "model.pt"
    if make is not None:
        make(path)
    line = refuse("inferring", "inference", weights=str(path), **run.tiny_generation)
    assert str(path) in line and expected in line


def test_weights_of_another_preset(run, refuse, trained):
    settings = {**run.tiny_generation, "preset": "tiny", "weights": str(trained / "models" / "model.pt")}
    assert "another network" in refuse("inferring", "inference", **settings)


def test_generating_into_a_folder_of_other_images(run, refuse, trained, tmp_path):
    settings = {**run.tiny_generation, "weights": str(trained / "models" / "model.pt"), "num_samples": 2}
    run.here(run.acdc, "inferring", "inference", bundle_root=str(tmp_path / "root"), **settings)
    line = refuse("inferring", "inference", **{**settings, "num_inference_steps": 4})
    assert "steps" in line and "choose another output_dir" in line


@pytest.mark.parametrize("case", ["missing folder", "not a number", "weights"])
def test_the_command_itself(run, broken, trained, tmp_path, case):
    """The same through ``python -m monai.bundle``: exit code, one line, with the bundle's own logging."""
    (tmp_path / "root").mkdir()
    settings = {**run.tiny, "image_size": "[16,16]", "bundle_root": str(tmp_path / "root")}
    if case == "missing folder":
        parts = run.arguments(run.acdc, "training", "train", dataset_dir=str(tmp_path / "absent"), **settings)
        expected = [str(tmp_path / "absent"), "no such folder"]
    elif case == "not a number":
        expected = not_a_number(broken)
        parts = run.arguments(run.acdc, "training", "train", dataset_dir=str(broken), **settings)
    else:
        (tmp_path / "root" / "models").mkdir()
        shutil.copy(trained / "models" / "checkpoint_epoch=1.pt", tmp_path / "root" / "models")
        settings |= {"preset": "tiny", "resume": "true", "max_epochs": 2, "dataset_dir": str(broken)}
        parts = run.arguments(run.acdc, "training", "train", **settings)
        expected = ["checkpoint_epoch=1.pt", "another network"]
    before = run.written(tmp_path / "root")
    result = run.command("-m", *parts, cwd=tmp_path)
    assert result.code not in (0, None)
    line = run.the_one_line(result.out, result.err)
    assert all(part in line for part in expected), line
    assert run.written(tmp_path / "root") == before
