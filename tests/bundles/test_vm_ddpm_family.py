"""The bundles of VM-DDPM on the data of each: the whole chain, class labels, and input that is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import pytest
import torch
from PIL import Image

CONDITIONAL = {"acdc": {}, "brats": {"class_conditional": "true"}, "chest": {"class_conditional": "true"}}
NO_NETWORK = ("preset", "image_size")  # what generation and evaluation know from the training


@pytest.fixture
def copy(tmp_path, monkeypatch, vm_ddpm):
    """Return a function that copies a bundle alone into another folder, and run from a third."""

    def call(name):
        bundle, data = vm_ddpm(name)
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        ignored = shutil.ignore_patterns("models", "eval")
        return Path(shutil.copytree(bundle, tmp_path / "copy", ignore=ignored)), data

    return call


@pytest.mark.parametrize("name", ["acdc", "brats", "chest"])
def test_train_resume_generate_and_score_a_copied_bundle(run, copy, extractor, tmp_path, name):
    """With class labels where the bundle has them; only the training is told about the network."""
    bundle, data = copy(name)
    labelled = bool(CONDITIONAL[name])
    settings = {**run.tiny, **CONDITIONAL[name], "bundle_root": str(bundle), "dataset_dir": str(data)}
    run.here(bundle, "training", "train", **settings)
    run.here(bundle, "training", "train", **settings | {"max_epochs": 2, "resume": "true"})
    history = [json.loads(line) for line in open(bundle / "eval" / "history.jsonl")]
    assert [line["epoch"] for line in history] == [1, 2]
    trained = json.loads((bundle / "models" / "model.json").read_text())
    assert trained["preset"] == "micro" and trained["num_class_embeds"] == (2 if labelled else None)

    settings = {key: value for key, value in run.tiny_generation.items() if key not in NO_NETWORK}
    settings |= {"bundle_root": str(bundle), "num_samples": 3}
    label = {"class_label": 1, "guidance_scale": 2.0} if labelled else {}
    run.here(bundle, "inferring", "inference", **settings, **label)
    records = [json.loads(line) for line in open(bundle / "eval" / "synthetic" / "manifest.jsonl")]
    assert [record["seed"] for record in records] == [0, 1, 2]
    assert {(record["class_label"], record["guidance_scale"]) for record in records} == {
        (1, 2.0) if label else (None, 1)
    }
    first = bundle / "eval" / "synthetic" / records[0]["file"]
    assert (Image.open(first).size if first.suffix == ".png" else nib.load(first).shape[:2]) == (16, 16)

    settings |= {"dataset_dir": str(data), "num_samples": 4}
    run.here(bundle, "evaluating", "train", "evaluate", extra=extractor, **settings)
    report = json.loads((bundle / "eval" / "report.json").read_text())
    assert report["n_fake"] == 4 and report["n_real"] >= 2
    assert not any((tmp_path / "elsewhere").iterdir())


def test_class_labels_choose_the_image(run, vm_ddpm, tmp_path):
    """The labels reach the network: after a training that is given them, they change what a seed gives."""
    bundle, data = vm_ddpm("chest")
    settings = {**run.tiny, **CONDITIONAL["chest"], "learning_rate": 0.01, "sampler": "ddpm"}
    run.here(bundle, "training", "train", bundle_root=str(tmp_path), dataset_dir=str(data), **settings)
    state = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert state["embedding.class_embedding.weight"].shape[0] == 3, "two classes and none"
    images = {}
    for label in (None, 0, 1):
        root = tmp_path / str(label)
        run.here(
            bundle,
            "inferring",
            "inference",
            bundle_root=str(root),
            weights=str(tmp_path / "models" / "model.pt"),
            num_samples=1,
            num_inference_steps=3,
            class_label=label,
            output_ext=".nii.gz",
        )
        images[label] = nib.load(root / "eval" / "synthetic" / "seed_000000.nii.gz").get_fdata()
    assert abs(images[0] - images[1]).max() > 1e-3 and abs(images[None] - images[1]).max() > 1e-3


@pytest.mark.parametrize("name", ["brats", "chest"])
def test_class_labels_of_the_data(run, vm_ddpm, tmp_path, name):
    """Training and validation get a label for each image, and it is the data's."""
    from monai.bundle import ConfigParser

    bundle, data = vm_ddpm(name)
    parser = ConfigParser(ConfigParser.load_config_file(bundle / "configs" / "train.json"))
    parser.update({**run.tiny, **CONDITIONAL[name], "dataset_dir": str(data), "cache": False, "flip_prob": 0.0})
    for split in ("train", "validate"):
        dataset = parser.get_parsed_content(f"{split}#dataset")
        labels = [int(item["class_label"]) for item in dataset]
        if name == "brats":
            files = {item["image"]: nib.load(item["label"]).get_fdata() for item in dataset.data}
            expected = [int(files[item["source"]][..., item["slice"]].any()) for item in dataset]
        else:
            expected = [int(item["group"] != "No Finding") for item in dataset]
        assert labels == expected
        if split == "train":
            assert set(labels) == {0, 1}, "both classes are there"
    batch = next(iter(parser.get_parsed_content("train#dataloader")))
    _, _, _, kwargs = parser.get_parsed_content("train#prepare_batch")(batch)
    assert kwargs["condition"].shape == (4,) and not kwargs["condition"].is_floating_point()


def test_brains_without_segmentation(run, refuse, brains, tmp_path):
    """Only class labels need it."""
    data = Path(shutil.copytree(brains, tmp_path / "data"))
    for path in data.rglob("*_seg.nii.gz"):
        path.unlink()
    settings = {**run.tiny, "dataset_dir": str(data), "modality": "flair", "cache": "false"}
    line = refuse("training", "train", bundle=run.brats, **settings, **CONDITIONAL["brats"])
    assert "has no 'label'" in line and "_flair.nii.gz" in line
    run.here(run.brats, "training", "train", bundle_root=str(tmp_path / "root"), **settings)
    assert json.loads((tmp_path / "root" / "models" / "model.json").read_text())["num_class_embeds"] is None


def test_any_folder_of_images(run, refuse, chests, tmp_path):
    """Grey pictures in grey and in colour modes, without a table; a picture with colours is named."""
    data = tmp_path / "data"
    for number, path in enumerate(sorted(chests.rglob("*.png"))[:12]):
        picture = Image.open(path)
        (data / f"patient{number}").mkdir(parents=True)
        mode, suffix = (("L", "png"), ("RGBA", "png"), ("RGB", "jpg"))[number % 3]
        picture.convert(mode).save(data / f"patient{number}" / f"a.{suffix}")
    settings = {**run.tiny, "dataset_dir": str(data), "cache": "false"}
    run.here(run.chest, "training", "train", bundle_root=str(tmp_path / "root"), **settings)
    history = (tmp_path / "root" / "eval" / "history.jsonl").read_text().splitlines()
    assert json.loads(history[0])["iteration"] == 2, "11 images for training"
    Image.merge("RGB", [picture, picture.point([255 - level for level in range(256)]), picture]).save(
        data / "patient3" / "a.png"
    )
    line = refuse("training", "train", root=tmp_path / "colour", bundle=run.chest, **settings)
    assert str(data / "patient3" / "a.png") in line and "colour" in line


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("brats", {"modality": "t3"}, ["modality", "t3", "flair"]),
        ("chest", {"finding": "Sunburn"}, ["finding", "Sunburn"]),
        ("chest", {"num_images": 0}, ["num_images", "0"]),
        ("brats", {"dataset_dir": ""}, ["dataset_dir is not given"]),
        ("chest", {"dataset_dir": ""}, ["dataset_dir is not given"]),
        ("brats", {"dataset_dir": "{empty}"}, ["{empty}", "no cases"]),
        ("chest", {"dataset_dir": "{empty}"}, ["{empty}", "no image"]),
    ],
)
def test_data_and_settings_that_are_wrong(run, refuse, vm_ddpm, tmp_path, name, settings, expected):
    (tmp_path / "empty").mkdir()
    bundle, data = vm_ddpm(name)
    filled = {key: str(value).format(empty=tmp_path / "empty") for key, value in settings.items()}
    filled = {key: int(value) if value.isdigit() else value for key, value in filled.items()}
    line = refuse("training", "train", bundle=bundle, **{**run.tiny, "dataset_dir": str(data), **filled})
    assert all(part.format(empty=tmp_path / "empty") in line for part in expected), line


def test_labels_that_the_weights_do_not_know(run, refuse, trained):
    """Those of the unconditional training of the first bundle."""
    settings = {"weights": str(trained / "models" / "model.pt"), "num_samples": 1, "num_inference_steps": 2}
    line = refuse("inferring", "inference", class_label=1, **settings)
    assert "class_label=1" in line and "needs a network with class labels" in line
    assert "needs a network" in refuse("inferring", "inference", guidance_scale=2.0, **settings)
    assert "another network" in refuse("inferring", "inference", num_class_embeds=2, **settings)


def test_own_lists_with_class_labels(run, refuse, phantoms, tmp_path):
    """A bundle whose data has no classes takes those of the user's list."""
    line = refuse("training", "train", dataset_dir=str(phantoms), num_class_embeds=3, **run.tiny)
    assert "class_label" in line and "labels" in line
    files = sorted(phantoms.rglob("*_frame??.nii.gz"))
    items = [{"image": str(path), "class_label": number % 3} for number, path in enumerate(files)]
    settings = {**run.tiny, "num_class_embeds": 3, "train#dataset#data": items[2:], "validate#dataset#data": items[:2]}
    run.here(run.acdc, "training", "train", bundle_root=str(tmp_path), dataset_dir=str(phantoms), **settings)
    state = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert state["embedding.class_embedding.weight"].shape[0] == 4
