"""Any folder of images: what counts as image and as patient."""

import zipfile

import numpy as np
import pytest
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from PIL import Image

from monai_mamba_gen.data import SliceDataset, image_folder_datalist
from monai_mamba_gen.transforms import CheckVolumed, ToGreyd
from monai_mamba_gen.utils import DataError

LOAD = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), ToGreyd("image"), CheckVolumed("image")])


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def patients(items):
    return [item["patient"] for item in items]


def test_what_is_an_image(tmp_path):
    touch(tmp_path, "b.png", "a.JPEG", "c.nii.gz", "d.tif", "e.bmp", "notes.txt", ".hidden.png", "__MACOSX/a.png")
    touch(tmp_path, ".git/x.png")
    items = image_folder_datalist(tmp_path, "all")
    assert patients(items) == ["a.JPEG", "b.png", "c.nii.gz", "d.tif", "e.bmp"], "without sub-folders, each by itself"
    expected = {"image": str(tmp_path / "a.JPEG"), "patient": "a.JPEG", "group": "", "phase": "", "view": ""}
    assert items[0] == expected
    assert patients(image_folder_datalist(tmp_path, "all", pattern="*.nii*")) == ["c.nii.gz"]
    assert patients(image_folder_datalist(tmp_path, "all", num_images=2)) == ["a.JPEG", "b.png"]


def test_sub_folders_are_patients(tmp_path):
    touch(tmp_path, *(f"p{n}/visit{v}/{i}.png" for n in range(5) for v in (1, 2) for i in range(3)), "alone.png")
    items = image_folder_datalist(tmp_path, "all")
    assert len(items) == 31 and set(patients(items)) == {"p0", "p1", "p2", "p3", "p4", "alone.png"}
    training, validation = (image_folder_datalist(tmp_path, split, 0.4, 3) for split in ("training", "validation"))
    assert not set(patients(training)) & set(patients(validation)) and len(set(patients(validation))) == 2
    assert sorted(i["image"] for i in training + validation) == sorted(i["image"] for i in items)


def test_an_unpacked_archive_is_no_patient(tmp_path):
    touch(tmp_path, *(f"archive/CXR/{n}.png" for n in range(3)))
    assert patients(image_folder_datalist(tmp_path, "all")) == ["0.png", "1.png", "2.png"]
    touch(tmp_path, "archive/CXR/p1/3.png")
    assert patients(image_folder_datalist(tmp_path, "all"))[-1] == "p1"


def test_patients_by_their_names(tmp_path):
    touch(tmp_path, *(f"part{n % 2}/sub-{n // 2:02d}_run-{n}.png" for n in range(8)), "part0/other.png")
    items = image_folder_datalist(tmp_path, "all", patient_pattern=r"(sub-\d+)_")
    assert sorted(set(patients(items))) == ["part0", "sub-00", "sub-01", "sub-02", "sub-03"]


def test_links_to_folders_are_followed_once(tmp_path):
    touch(tmp_path, "elsewhere/images/a.png", "elsewhere/images/b.png", "root/c.png")
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "root")
    assert len(image_folder_datalist(tmp_path / "root", "all")) == 3


def test_errors(tmp_path):
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "one/a.png")
    for given, message in (
        ({"dataset_dir": ""}, "dataset_dir is not given"),
        ({"dataset_dir": tmp_path / "absent"}, "no such folder"),
        ({"dataset_dir": tmp_path / "empty"}, r"no image in it, expected files .png, .jpg"),
        ({"dataset_dir": tmp_path / "one", "pattern": "*.nii"}, r"no image with a name like '\*.nii' in it"),
        ({"dataset_dir": tmp_path / "one"}, "only one patient"),
        ({"dataset_dir": tmp_path / "one", "patient_pattern": "("}, "is no regular expression"),
        ({"dataset_dir": tmp_path / "one", "patient_pattern": "a"}, r"has no group \(...\)"),
        ({"dataset_dir": tmp_path / "one", "num_images": 0}, "num_images must be"),
        ({"dataset_dir": tmp_path / "one", "split": "test"}, "split must be"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            image_folder_datalist(**given)
        assert "\n" not in str(caught.value)


def test_real_chest_x_rays(tmp_path, shared_data):
    with zipfile.ZipFile(shared_data / "cxr_mednist" / "cxr_mednist64_jpeg.zip") as archive:
        archive.extractall(tmp_path, [name for name in archive.namelist() if name.endswith(".jpeg")][:30])
    items = image_folder_datalist(tmp_path, "all")
    dataset = SliceDataset(items, LOAD, progress=False)
    assert len(dataset) == 30 and dataset.images().shape == (30, 1, 64, 64)
    with Image.open(items[7]["image"]) as picture:
        assert np.array_equal(dataset[7]["image"][0].numpy().T, np.asarray(picture)), "x first"
