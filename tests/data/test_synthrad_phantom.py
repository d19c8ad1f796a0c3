"""Phantoms on disk in SynthRAD2023's layout: grids, atomic, never over somebody's files."""

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

from monai_mamba_gen.data import (
    SliceDataset,
    synthrad_datalist,
    synthrad_phantom_dir,
    write_acdc_phantom,
    write_synthrad_phantom,
)
from monai_mamba_gen.data import synthrad_phantom as module
from monai_mamba_gen.transforms import CheckPaird, MaskBackgroundd, ScaleIntensityInMaskd, ScaleIntensityWindowd
from monai_mamba_gen.utils import DataError

TINY = {"num_patients": 2, "shape": (16, 20, 3)}


def test_layout_headers_and_reading(tmp_path):
    root = write_synthrad_phantom(tmp_path / "new" / "phantom", **TINY)
    items = synthrad_datalist(root, "all", "all")
    assert [item["patient"] for item in items] == ["1BP001", "1BP002", "1PP001", "1PP002"]
    keys = ("image", "target", "mask")
    load = Compose([LoadImaged(keys), EnsureChannelFirstd(keys), CheckPaird()])
    for item in items:
        pair = load(item)
        assert pair["image"].shape == (1, 16, 20, 3) and pair["image"].min() < -900
    ct, mr, mask = (nib.load(items[0][key]) for key in keys)
    assert [image.get_data_dtype() for image in (ct, mr, mask)] == [np.int16, np.int16, np.uint8]
    assert nib.aff2axcodes(ct.affine) == ("L", "P", "S") and ct.header.get_xyzt_units()[0] == "mm"
    assert np.allclose(ct.header.get_zooms(), (240 / 16, 240 / 20, 138 / 3))
    middle = ct.affine @ [*(np.array(ct.shape) - 1) / 2, 1]
    assert np.allclose(middle[:3], 0, atol=1e-4)


def test_same_arguments_same_files_and_any_number_of_patients(tmp_path):
    def contents(name, **given):
        root = write_synthrad_phantom(tmp_path / name, **{**TINY, **given})
        items = synthrad_datalist(root, "all", "all")
        return {item["patient"]: np.asarray(nib.load(item["target"]).dataobj) for item in items}

    first, more, other = contents("a"), contents("b", num_patients=3), contents("c", seed=1)
    assert all(np.array_equal(first[name], more[name]) for name in first)
    assert not any(np.array_equal(first[name], other[name]) for name in first)
    assert not np.array_equal(first["1BP001"], first["1BP002"])


def test_regions_and_spacing(tmp_path):
    root = write_synthrad_phantom(tmp_path / "p", regions="pelvis", spacing=(2, 2, 5), **TINY)
    (folder,) = (root / "Task1").iterdir()
    assert folder.name == "pelvis"
    assert nib.load(folder / "1PP002" / "mr.nii.gz").header.get_zooms() == (2, 2, 5)


def test_complete_phantom_is_left_alone(tmp_path, monkeypatch):
    root = tmp_path / "phantom"
    assert synthrad_phantom_dir(root, **TINY) == str(root)
    monkeypatch.setattr(module, "ct_mr_phantom", None)
    assert synthrad_phantom_dir(str(root), **TINY) == str(root)
    assert [path.name for path in tmp_path.iterdir()] == ["phantom"]


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ct_mr_phantom", None)
    with pytest.raises(TypeError):
        write_synthrad_phantom(tmp_path / "phantom", **TINY)
    assert list(tmp_path.iterdir()) == []


def test_refuses_other_content(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="exists and is not a phantom"):
        write_synthrad_phantom(tmp_path / "mine", **TINY)
    root = write_synthrad_phantom(tmp_path / "a", **TINY)
    with pytest.raises(DataError, match=r"other parameters \(seed 0\)"):
        write_synthrad_phantom(root, seed=2, **TINY)
    acdc = write_acdc_phantom(tmp_path / "b", 1, num_frames=2, shape=(16, 16, 1))
    with pytest.raises(DataError, match="other parameters"):
        write_synthrad_phantom(acdc, **TINY)


def test_arguments(tmp_path):
    for given, message in (
        ({"num_patients": 0}, "num_patients must be an integer above 0"),
        ({"regions": ("brain", "foot")}, "regions must be some of"),
        ({"regions": ()}, "regions must be some of"),
        ({"shape": (4, 4, 4)}, "shape must be"),
    ):
        with pytest.raises(ValueError, match=message):
            write_synthrad_phantom(tmp_path / "x", **given)
    assert list(tmp_path.iterdir()) == []


def test_from_the_files_to_slices(tmp_path):
    data = synthrad_datalist(write_synthrad_phantom(tmp_path / "phantom", **TINY), "all", "all")
    keys = ("image", "target", "mask")
    prepare = Compose(
        [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            CheckPaird(),
            ScaleIntensityWindowd("image"),
            ScaleIntensityInMaskd("target"),
            MaskBackgroundd(["image", "target"]),
        ]
    )
    given = {"keys": keys, "keep_key": "mask", "store_dtype": "float16", "cache_dir": tmp_path / "cache"}
    dataset = SliceDataset(data, prepare, progress=False, **given)
    assert len(dataset) == 12 and {dataset[index]["position"] for index in range(12)} == {0, 0.5, 1}
    for item in (dataset[0], dataset[11]):
        inside = item["mask"] == 1
        for key in ("image", "target"):
            assert item[key].shape == (1, 16, 20) and item[key].abs().max() <= 1
            assert (item[key][~inside] == -1).all() and item[key][inside].std() > 0.1
