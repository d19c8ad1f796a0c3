"""Bad input to the cine bundle ends in one line, before anything is written."""

from __future__ import annotations

import shutil

import nibabel as nib
import numpy as np
import pytest


@pytest.fixture
def broken(beats, tmp_path):
    """A copy of the phantom beats to break."""
    return shutil.copytree(beats, tmp_path / "data")


def volumes(folder, patient="patient002"):
    """Return the files of ED and ES."""
    found = [path for path in sorted((folder / "training" / patient).glob("*_frame*")) if "_gt" not in path.name]
    assert len(found) == 2
    return found


def other_shape(folder):
    path = volumes(folder)[1]
    image = nib.load(path)
    nib.save(nib.Nifti1Image(image.get_fdata()[:-2], image.affine), path)
    return [path.name, "target", "shape"]


def same_volume(folder):
    first, second = volumes(folder)
    shutil.copy(first, second)
    return [second.name, "identical"]


def same_frame(folder):
    (folder / "training" / "patient003" / "Info.cfg").write_text("ED: 1\nES: 1\n")
    return ["patient003", "ED and ES are both frame 1"]


def one_frame(folder):
    path = next((folder / "training" / "patient002").glob("*_4d.nii.gz"))
    image = nib.load(path)
    nib.save(nib.Nifti1Image(image.get_fdata()[..., :1], image.affine), path)
    return [path.name, "1 frame"]


def not_a_number(folder):
    path = volumes(folder)[0]
    image = nib.load(path)
    array = image.get_fdata(dtype=np.float32)
    array[3, 4, 1] = np.nan
    nib.save(nib.Nifti1Image(array, image.affine), path)
    return [path.name, "NaN", "image"]


@pytest.mark.parametrize("harm", [other_shape, same_volume, same_frame, one_frame, not_a_number])
def test_damaged_data(run, refuse, broken, harm):
    expected = harm(broken)
    line = refuse("training", "train", bundle=run.cine, dataset_dir=str(broken), **run.cine_tiny)
    assert all(part in line for part in expected), line


def test_missing_labels_are_named_by_the_evaluation(run, refuse, broken, cine_trained):
    for path in (broken / "training").glob("*/*_gt.nii.gz"):
        path.unlink()
    settings = {**run.cine_tiny, "dataset_dir": str(broken), "weights": str(cine_trained / "models" / "model.pt")}
    line = refuse("evaluating", "train", "evaluate", bundle=run.cine, **settings)
    assert "label" in line and "patient" in line


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("model", "unet", "voxelmorph"),
        ("model", "blend", "nothing to train"),
        ("preset", "giant", "tiny"),
        ("prediction_type", "noise", "epsilon"),
        ("target_dropout", 1.5, "[0, 1]"),
        ("code_channels", 4, "odd"),
        ("velocity_stride", 0, "at least 1"),
        ("clean_fraction", 2, "[0, 1]"),
        ("phase_path", "time", "velocity"),
        ("similarity_weight", -1, "negative"),
        ("percentiles", [99, 1], "lower"),
        ("image_size", [16, 16], "three"),
        ("num_supervised_frames", 7, "frames between"),
        ("batch_size", 0, "positive"),
        ("batch_size", 64, "3"),
    ],
)
def test_unknown_settings_of_training(run, refuse, beats, name, value, allowed):
    settings = {**run.cine_tiny, "dataset_dir": str(beats), name: value}
    line = refuse("training", "train", bundle=run.cine, **settings)
    assert allowed in line and (str(value) in line or value == "blend" or name == "percentiles"), line


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("model", "unet", "voxelmorph"),
        ("mode", "both", "interpolation"),
        ("num_frames", 1, "at least 2"),
        ("phase_curve", "sine", "beat"),
        ("num_samples", 0, "above 0"),
        ("num_inference_steps", 3000, "1 to 2000"),
        ("prediction_type", "epsilon", "v_prediction"),
        ("velocity_stride", 1, "velocity_stride=None"),
        ("integration_steps", 5, "integration_steps=2"),
        ("split", "some", "training"),
        ("grid", "atlas", "source"),
        ("dataset_dir", "", "--dataset_dir"),
        ("image", "x.nii.gz", "name one of them"),
    ],
)
def test_unknown_settings_of_inference(run, refuse, beats, cine_trained, name, value, allowed):
    settings = {**run.cine_tiny_generation, "dataset_dir": str(beats)}
    settings |= {"weights": str(cine_trained / "models" / "model.pt"), name: value}
    line = refuse("inferring", "inference", bundle=run.cine, **settings)
    assert allowed in line and str(value) in line, line


def test_inference_without_weights(run, refuse, beats, tmp_path):
    settings = {**run.cine_tiny_generation, "dataset_dir": str(beats)}
    line = refuse("inferring", "inference", bundle=run.cine, **settings)
    assert str(tmp_path / "root" / "models" / "model.pt") in line
    line = refuse("evaluating", "train", "evaluate", bundle=run.cine, **run.cine_tiny, dataset_dir=str(beats))
    assert str(tmp_path / "root" / "models" / "model.pt") in line and "no such file" in line


def test_models_without_a_denoiser_do_not_generate(run, refuse, beats):
    settings = {**run.cine_tiny_generation, "dataset_dir": str(beats), "model": "blend", "mode": "generation"}
    line = refuse("inferring", "inference", bundle=run.cine, **settings)
    assert "mode 'generation' needs a network with a denoiser" in line
