"""Phantom chests on disk in ChestX-ray14's layout."""

import csv

import numpy as np
import pytest
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from PIL import Image

from monai_mamba_gen.data import (
    SliceDataset,
    chest_phantom,
    chestxray14_datalist,
    phantom_chestxray14_dir,
    read_provenance,
    write_chestxray14_phantom,
    write_synthetic_image,
)
from monai_mamba_gen.transforms import CheckVolumed, ToGreyd
from monai_mamba_gen.utils import DataError, image_grid

LOAD = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), ToGreyd("image"), CheckVolumed("image")])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_chestxray14_phantom(tmp_path_factory.mktemp("chests") / "phantom", 8, 2, 32)


def test_layout_and_table(root):
    assert [len(list(root.glob(f"images_00{n}/images/*.png"))) for n in (1, 2)] == [8, 8]
    with open(root / "Data_Entry_2017.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 16 and rows[3]["Image Index"] == "00000002_001.png" and rows[3]["Patient ID"] == "2"
    assert {row["View Position"] for row in rows} == {"PA", "AP"} and rows[0]["OriginalImage[Width"] == "32"
    items = chestxray14_datalist(root, "all")
    assert [item["class_label"] for item in items].count(0) == 8
    assert [len(chestxray14_datalist(root, split)) for split in ("training", "validation", "test")] == [10, 2, 4]
    assert {item["patient"] for item in chestxray14_datalist(root, "test")} == {"00000004", "00000008"}


def test_grey_as_l_and_as_rgba_come_out_alike_and_upright(root, tmp_path):
    items = chestxray14_datalist(root, "all")
    modes = [Image.open(item["image"]).mode for item in items]
    assert modes.count("RGBA") == 2 and modes.count("L") == 14
    dataset = SliceDataset(items, LOAD, progress=False)
    assert dataset.images().shape == (16, 1, 32, 32)
    for index in (0, modes.index("RGBA")):
        picture = np.asarray(Image.open(items[index]["image"]).convert("L"))
        loaded = dataset[index]["image"]
        assert np.array_equal(image_grid(loaded[None], value_range=(0, 255)), picture), "drawn as a person sees it"
        write_synthetic_image(tmp_path / "a.png", loaded[0], None, {"seed": 1}, value_range=(0, 255))
        assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), picture), "written as a person sees it"
        assert read_provenance(tmp_path / "a.png") == {"seed": 1, "synthetic": True}
    assert dataset[1]["class_label"].dtype.is_floating_point is False
    assert [int(dataset[index]["class_label"]) for index in range(16)] == [item["class_label"] for item in items]


def test_same_arguments_same_files(root, tmp_path):
    again = write_chestxray14_phantom(tmp_path / "again", 4, 2, 32)
    for item in chestxray14_datalist(again, "all"):
        name = item["image"].rsplit("/", 1)[1]
        (same,) = root.rglob(name)
        assert np.array_equal(
            np.asarray(Image.open(item["image"]).convert("L")), np.asarray(Image.open(same).convert("L"))
        )
    assert phantom_chestxray14_dir(str(root), num_patients=8, images_per_patient=2, size=32) == str(root)
    with pytest.raises(DataError, match=r"other parameters \(seed 0\)"):
        write_chestxray14_phantom(root, 8, 2, 32, seed=1)
    assert chest_phantom(0, 32).dtype == np.uint8


def test_arguments(tmp_path):
    for given, message in (
        ({"num_patients": 0}, "num_patients must be an integer from 1"),
        ({"images_per_patient": 1.5}, "images_per_patient must be an integer from 1"),
        ({"size": 4}, "size must be an integer of at least 16"),
    ):
        with pytest.raises(ValueError, match=message):
            write_chestxray14_phantom(tmp_path / "x", **given)
    assert list(tmp_path.iterdir()) == []
