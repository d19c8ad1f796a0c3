"""Bad input to the DiffMa bundle ends in one line, before anything is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch


@pytest.fixture
def broken(pairs, tmp_path):
    """A copy of the phantom heads to break."""
    return Path(shutil.copytree(pairs, tmp_path / "data"))


def file(folder, name):
    return folder / "Task1" / "brain" / "1BP002" / f"{name}.nii.gz"


def rewrite(path, change, affine=None):
    image = nib.load(path)
    array = change(image.get_fdata(dtype=np.float32))
    nib.save(nib.Nifti1Image(array, image.affine if affine is None else affine), path)


def other_shape(folder):
    rewrite(file(folder, "mr"), lambda array: array[:-2])
    return ["mr.nii.gz", "ct.nii.gz", "'target'", "shape"]


def other_grid(folder):
    affine = nib.load(file(folder, "mr")).affine.copy()
    affine[0, 3] += 30
    rewrite(file(folder, "mr"), lambda array: array, affine)
    return ["mr.nii.gz", "ct.nii.gz", "'target'", "another grid"]


def no_mask(folder):
    file(folder, "mask").unlink()
    return ["1BP002", "mask.nii.gz", "is missing"]


def empty_mask(folder):
    rewrite(file(folder, "mask"), lambda array: 0 * array)
    return ["mask.nii.gz", "empty mask"]


def no_mr(folder):
    file(folder, "mr").unlink()
    return ["1BP002", "mr.nii.gz", "is missing"]


def not_a_number(folder):
    def harm(array):
        array[3, 4, 1] = np.nan
        return array

    rewrite(file(folder, "mr"), harm)
    return ["mr.nii.gz", "NaN", "'target'"]


def truncated(folder):
    path = file(folder, "ct")
    path.write_bytes(path.read_bytes()[:500])
    return ["ct.nii.gz", "'image'", "cannot be read"]


@pytest.mark.parametrize("harm", [other_shape, other_grid, no_mask, empty_mask, no_mr, not_a_number, truncated])
def test_damaged_data(run, refuse, broken, harm):
    expected = harm(broken)
    line = refuse("training", "train_autoencoder", bundle=run.diffma, dataset_dir=str(broken), **run.diffma_tiny)
    assert all(part in line for part in expected), line


def test_damaged_data_of_the_second_stage(run, refuse, broken, autoencoder):
    expected = other_grid(broken)
    settings = {**run.diffma_tiny, "dataset_dir": str(broken)}
    settings["autoencoder_weights"] = str(autoencoder / "models" / "autoencoder.pt")
    line = refuse("training", "train", bundle=run.diffma, **settings)
    assert all(part in line for part in expected), line


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("model", "mstg", "unet"),
        ("preset", "giant", "tiny/2"),
        ("scan_order", "zigzag", "spiral"),
        ("prediction_type", "noise", "epsilon"),
        ("direction", "mr2mr", "both"),
        ("condition_dropout", 1.5, "[0, 1]"),
        ("latent_mode", "wavelet", "pixel"),
        ("image_embedding", "clip", "biomedclip"),
        ("ct_window", [100, -100], "lower first"),
        ("ct_window", [5000, 9000], "window"),
        ("mr_percentiles", [99, 1], "lower"),
        ("region", "knee", "pelvis"),
        ("val_fraction", 0, "below 1"),
        ("batch_size", 64, "9"),
        ("dataset_dir", "nowhere", "no such folder"),
        ("latent_channels", 3, "latent_channels=2"),
        ("autoencoder_channels", [8, 16], "another network"),
        ("mr_percentiles", [1, 99], "mr_percentiles=[0.5, 99.5]"),
    ],
)
def test_unknown_settings_of_training(run, refuse, pairs, autoencoder, name, value, allowed):
    settings = {**run.diffma_tiny, "dataset_dir": str(pairs), name: value}
    settings["autoencoder_weights"] = str(autoencoder / "models" / "autoencoder.pt")
    line = refuse("training", "train", bundle=run.diffma, **settings)
    assert allowed in line, line
    assert str(value) in line or isinstance(value, list), line


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("model", "identity", "unet"),
        ("model", "unet", "another network"),
        ("concat_context", True, "another network"),
        ("prediction_type", "v_prediction", "epsilon"),
        ("num_inference_steps", 0, "1 to 1000"),
        ("sampler", "euler", "ddim"),
        ("slice_batch", 0, "at least 1"),
        ("displayable_configs#num_averages", 0, "at least 1"),
        ("direction", "both", "ct2mr"),
        ("split", "some", "training"),
        ("dataset_dir", "", "--dataset_dir"),
        ("image", "x.nii.gz", "name one of them"),
        ("ct_window", [-500, 500], "ct_window=[-1000, 1000]"),
    ],
)
def test_unknown_settings_of_inference(run, refuse, pairs, diffma_trained, name, value, allowed):
    models = diffma_trained / "models"
    settings = {**run.diffma_tiny_inference, "dataset_dir": str(pairs), "weights": str(models / "model.pt")}
    settings |= {"autoencoder_weights": str(models / "autoencoder.pt"), name: value}
    line = refuse("inferring", "inference", bundle=run.diffma, **settings)
    assert allowed in line, line


@pytest.mark.parametrize("stage", ["train", "train_embedder"])
def test_missing_autoencoder_says_what_to_do(run, refuse, pairs, tmp_path, stage):
    line = refuse("training", stage, bundle=run.diffma, dataset_dir=str(pairs), **run.diffma_tiny)
    assert str(tmp_path / "root" / "models" / "autoencoder.pt") in line
    assert "train_autoencoder.json" in line and "--latent_mode pixel" in line


def test_missing_autoencoder_in_inference_and_evaluation(run, refuse, pairs, diffma_trained):
    model = {"weights": str(diffma_trained / "models" / "model.pt"), "dataset_dir": str(pairs)}
    line = refuse("inferring", "inference", bundle=run.diffma, **run.diffma_tiny_inference, **model)
    assert "autoencoder.pt: no such file" in line
    line = refuse("evaluating", "train", "evaluate", bundle=run.diffma, **run.diffma_tiny, **model)
    assert "autoencoder.pt: no such file" in line


def test_no_scale_no_training(run, refuse, pairs, autoencoder, tmp_path):
    state = torch.load(autoencoder / "models" / "autoencoder.pt", weights_only=True)
    state["scale_factor"] = torch.tensor(float("nan"))
    torch.save(state, tmp_path / "unscaled.pt")
    settings = {**run.diffma_tiny, "dataset_dir": str(pairs), "autoencoder_weights": str(tmp_path / "unscaled.pt")}
    line = refuse("training", "train", bundle=run.diffma, **settings)
    assert "unscaled.pt" in line and "scale_factor" in line


class Harmful:
    """What a pickle can do: run any function, here one that leaves a file."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (open, (str(self.trace), "w"))


@pytest.mark.parametrize("part", ["autoencoder_weights", "weights"])
@pytest.mark.parametrize("content", ["payload", "damaged", "another"])
def test_weights_that_do_not_fit(run, refuse, pairs, diffma_trained, tmp_path, part, content):
    path = tmp_path / "bad.pt"
    if content == "damaged":
        path.write_bytes(b"PK\x03\x04 not a whole file")
    else:
        payload, other = {"weight": Harmful(tmp_path / "executed")}, torch.nn.Linear(2, 2).state_dict()
        torch.save(payload if content == "payload" else other, path)
    models = diffma_trained / "models"
    settings = {"weights": str(models / "model.pt"), "autoencoder_weights": str(models / "autoencoder.pt")}
    settings |= {**run.diffma_tiny_inference, "dataset_dir": str(pairs), part: str(path)}
    line = refuse("inferring", "inference", bundle=run.diffma, **settings)
    expected = {"payload": "refused", "damaged": "damaged", "another": "another network"}[content]
    assert str(path) in line and expected in line
    assert not (tmp_path / "executed").exists()


def test_nothing_to_train(run, refuse, pairs):
    settings = {**run.diffma_tiny, "dataset_dir": str(pairs), "latent_mode": "pixel"}
    assert "nothing to train" in refuse("training", "train_autoencoder", bundle=run.diffma, **settings)


def test_a_mask_of_another_grid_and_no_ct(run, refuse, pairs, diffma_trained, tmp_path):
    models, folder = diffma_trained / "models", pairs / "Task1" / "brain" / "1BP001"
    settings = {"weights": str(models / "model.pt"), "autoencoder_weights": str(models / "autoencoder.pt")}
    settings |= run.diffma_tiny_inference
    shutil.copy(folder / "mask.nii.gz", tmp_path / "mask.nii.gz")
    rewrite(tmp_path / "mask.nii.gz", lambda array: array[:, :-2])
    given = {"image": str(folder / "ct.nii.gz"), "mask": str(tmp_path / "mask.nii.gz")}
    line = refuse("inferring", "inference", bundle=run.diffma, **settings, **given)
    assert "mask.nii.gz" in line and "shape" in line
    line = refuse("inferring", "inference", bundle=run.diffma, **settings, image=str(folder / "mask.nii.gz"))
    assert "mask.nii.gz" in line and "HU" in line
