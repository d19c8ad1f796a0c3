"""The DiffMa bundle's inference: data sets, single files, DICOM and MONAI Label, on the grid that they came from."""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser


def weights(root):
    names = {"weights": "model.pt", "autoencoder_weights": "autoencoder.pt"}
    return {key: str(root / "models" / name) for key, name in names.items()}


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "manifest.jsonl"}


def test_inference_alone_from_another_folder_and_continued(run, pairs, diffma_trained, tmp_path, monkeypatch):
    """inference.json and the weights are enough; a folder with some files gone is completed with the same bytes."""
    for folder in ("configs", "elsewhere"):
        (tmp_path / "copy" / folder).mkdir(parents=True)
    shutil.copy(run.diffma / "configs" / "inference.json", tmp_path / "copy" / "configs")
    shutil.copytree(diffma_trained / "models", tmp_path / "copy" / "models")
    monkeypatch.chdir(tmp_path / "copy" / "elsewhere")
    settings = {**run.diffma_tiny_inference, "bundle_root": str(tmp_path / "copy"), "dataset_dir": str(pairs)}
    settings["displayable_configs#num_averages"] = 2
    run.here(tmp_path / "copy", "inferring", "inference", **settings)
    folder = tmp_path / "copy" / "eval" / "synthetic"
    before = contents(folder)
    expected = {"1BP001_mr.nii.gz", "1BP001_mr_std.nii.gz", "1BP001_mr.png", "1BP001_mr.json", "1BP004_mr.nii.gz"}
    assert expected <= set(before)
    made = nib.load(folder / "1BP001_mr.nii.gz")
    source, mask = (nib.load(pairs / "Task1" / "brain" / "1BP001" / f"{name}.nii.gz") for name in ("ct", "mask"))
    assert made.shape == source.shape and np.array_equal(made.affine, source.affine)
    assert made.header.get_zooms() == source.header.get_zooms()
    values, inside = made.get_fdata(), mask.get_fdata() > 0
    assert (values[~inside] == 0).all() and 0 <= values.min() and values.max() <= 1 and np.ptp(values[inside]) > 0
    spread = nib.load(folder / "1BP001_mr_std.nii.gz").get_fdata()
    assert (spread[~inside] == 0).all() and spread[inside].max() > 0
    records = [json.loads(line) for line in open(folder / "manifest.jsonl")]
    assert [record["patient"] for record in records] == [f"1BP{n:03d}" for n in range(1, 5)]
    assert all(len(record["weights_sha256"]) == len(record["autoencoder_sha256"]) == 64 for record in records)
    assert all(record["seeds"] == [0, 1] and record["direction"] == "ct2mr" for record in records)

    (folder / "1BP002_mr.nii.gz").unlink()
    lines = (folder / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "manifest.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:20])
    run.here(tmp_path / "copy", "inferring", "inference", **settings)
    assert contents(folder) == before
    run.here(tmp_path / "copy", "inferring", "inference", **settings)  # nothing left to do
    assert contents(folder) == before and len(open(folder / "manifest.jsonl").readlines()) == 4
    assert not any((tmp_path / "copy" / "elsewhere").iterdir())


def test_seeds_tell_volumes_apart(run, pairs, diffma_trained, tmp_path):
    image = pairs / "Task1" / "brain" / "1BP001" / "ct.nii.gz"
    settings = {**run.diffma_tiny_inference, **weights(diffma_trained), "image": str(image), "picture": False}
    made = {}
    for name, seed, slices in (("a", 0, 16), ("b", 0, 1), ("c", 7, 16)):
        more = {"displayable_configs#seed": seed, "slice_batch": slices, "save_dir": str(tmp_path / name)}
        run.here(run.diffma, "inferring", "inference", bundle_root=str(tmp_path), **settings, **more)
        made[name] = nib.load(tmp_path / name / "ct_mr.nii.gz").get_fdata()
    np.testing.assert_allclose(made["a"], made["b"], atol=1e-4)
    assert np.abs(made["a"] - made["c"]).max() > 0.01


def test_one_nifti_file_gets_a_mask_of_its_body(run, pairs, diffma_trained, tmp_path):
    image = pairs / "Task1" / "brain" / "1BP001" / "ct.nii.gz"
    settings = {**run.diffma_tiny_inference, **weights(diffma_trained), "image": str(image)}
    run.here(run.diffma, "inferring", "inference", bundle_root=str(tmp_path), **settings)
    folder = tmp_path / "eval" / "synthetic"
    assert sorted(contents(folder)) == ["ct_mr.json", "ct_mr.nii.gz", "ct_mr.png"]
    made, source = nib.load(folder / "ct_mr.nii.gz"), nib.load(image)
    assert made.shape == source.shape and np.array_equal(made.affine, source.affine)
    hounsfield = source.get_fdata()
    assert (made.get_fdata()[hounsfield < -900][:10] == 0).all() and (made.get_fdata()[hounsfield > 0] > 0).mean() > 0.5


def test_a_folder_of_dicom_gives_what_its_nifti_gives(run, pairs, diffma_trained, write_dicom_series, tmp_path):
    image = pairs / "Task1" / "brain" / "1BP001" / "ct.nii.gz"
    file = nib.load(image)
    series = write_dicom_series(tmp_path / "series", np.asarray(file.dataobj), file.affine)
    settings = {**run.diffma_tiny_inference, **weights(diffma_trained), "picture": False}
    for name, path in {"nifti": image, "dicom": series}.items():
        more = {"image": str(path), "save_dir": str(tmp_path / name)}
        run.here(run.diffma, "inferring", "inference", bundle_root=str(tmp_path), **settings, **more)
    first, second = nib.load(tmp_path / "nifti" / "ct_mr.nii.gz"), nib.load(tmp_path / "dicom" / "series_mr.nii.gz")
    world = [nib.as_closest_canonical(each) for each in (first, second)]
    np.testing.assert_allclose(world[0].affine, world[1].affine, atol=1e-4)
    np.testing.assert_allclose(world[0].get_fdata(), world[1].get_fdata(), atol=1e-4)


def label_request(parser, path, network, **options):
    """What MONAI Label does with a request, see its BundleInferTask."""
    parser["displayable_configs"].update(options)
    parser.parse()
    data = parser.get_parsed_content("preprocessing")({"image": str(path), "image_path": str(path), **options})
    pred = parser.get_parsed_content("inferer")(data["image"][None], network)
    return data["image"], parser.get_parsed_content("postprocessing")({**data, "pred": pred[0]})["pred"]


def test_parts_that_monai_label_takes(run, pairs, diffma_trained):
    """One request returns a whole synthetic volume on the grid of the file."""
    config = ConfigParser.load_config_file(run.diffma / "configs" / "inference.json")
    settings = {**run.diffma_tiny_inference, **weights(diffma_trained), "device": "cpu"}
    parser = ConfigParser(config | settings)
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(diffma_trained / "models" / "model.pt", weights_only=True))
    path = pairs / "Task1" / "brain" / "1BP001" / "ct.nii.gz"
    source, made = nib.load(path), {}
    for options in ({"seed": 0}, {"seed": 7}, {"seed": 0, "num_averages": 2}):
        image, pred = label_request(parser, path, network, **options)
        assert pred.shape == (1, *source.shape) and np.allclose(pred.affine.numpy(), source.affine)
        # what MONAI Label compares with to see whether it has to resize
        assert tuple(int(side) for side in image.meta["spatial_shape"]) == source.shape
        assert float(pred.min()) == 0 and float(pred.max()) <= 1  # as in the files of ``run inferring``
        made[len(made)] = pred
    assert not torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])
