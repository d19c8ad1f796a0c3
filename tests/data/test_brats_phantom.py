"""Phantom brains: what they look like, their files, and the number of slices that the rule chooses."""

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, ScaleIntensityRangePercentilesd

from monai_mamba_gen.data import (
    SliceDataset,
    brats_datalist,
    brats_phantom,
    phantom_brats_dir,
    write_acdc_phantom,
    write_brats_phantom,
)
from monai_mamba_gen.transforms import CheckVolumed, PresenceLabeld, ResizeCenterCropd, SelectSlicesd
from monai_mamba_gen.utils import DataError

MODALITIES = ("t1", "t1ce", "t2", "flair")
TINY = {"num_patients": 2, "shape": (16, 20, 6)}


def prepare(keys, size=24):
    labels = [key == "label" for key in keys]
    return Compose(
        [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            CheckVolumed(keys, allow_constant=labels),
            ResizeCenterCropd(keys, size, mode=["nearest" if label else "bilinear" for label in labels]),
            ScaleIntensityRangePercentilesd("image", 0.0, 99.9, -1, 1, clip=True),
            SelectSlicesd("image", every=2),
        ]
    )


@pytest.mark.parametrize("group", ["HGG", "LGG"])
@pytest.mark.parametrize("seed", [0, 1])
def test_contrasts_of_the_tumour(seed, group):
    case = brats_phantom(seed, (48, 48, 32), group)
    seg, brain = case["seg"], case["t1"] > 0
    assert set(np.unique(seg)) == ({0, 1, 2, 4} if group == "HGG" else {0, 1, 2})
    assert all(np.array_equal(case[name] > 0, brain) for name in MODALITIES) and not brain[seg > 0].min() < 1
    healthy = {name: case[name][brain & (seg == 0)].mean() for name in MODALITIES}
    for name in ("t2", "flair"):
        assert case[name][seg == 2].mean() > 1.3 * healthy[name]
    assert case["t1ce"][seg == 1].mean() < 0.8 * healthy["t1ce"]
    if group == "HGG":
        rim = {name: case[name][seg == 4].mean() / healthy[name] for name in ("t1", "t1ce")}
        assert rim["t1ce"] > 1.4 > 0.9 > rim["t1"], "it takes up contrast agent"
    assert 0.01 < (seg > 0).sum() / brain.sum() < 0.2 and 0.15 < brain.mean() < 0.4


def test_the_same_seed_gives_the_same_case():
    first, again, other = (brats_phantom(seed, (16, 16, 6)) for seed in (3, 3, 4))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["t1"], other["t1"])
    for given, message in (({"shape": (8, 16, 4)}, "shape must be"), ({"group": "GG"}, "group must be")):
        with pytest.raises(ValueError, match=message):
            brats_phantom(0, **given)


@pytest.mark.parametrize("layout", ["2018", "2021"])
def test_layouts_headers_and_reading(tmp_path, layout):
    root = write_brats_phantom(tmp_path / "new" / "phantom", layout=layout, **TINY)
    items = brats_datalist(root, "all", "flair")
    assert [item["group"] for item in items] == (["HGG", "LGG"] if layout == "2018" else ["", ""])
    image, seg = nib.load(items[0]["image"]), nib.load(items[0]["label"])
    assert image.get_data_dtype() == np.int16 and seg.get_data_dtype() == np.uint8
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S") and np.array_equal(image.affine, seg.affine)
    assert np.allclose(image.header.get_zooms(), (200 / 16, 200 / 20, 155 / 6))
    assert np.allclose(image.affine[:3, 3], (0, 190, 0))
    assert phantom_brats_dir(str(root), layout=layout, **TINY) == str(root), "left alone"


def test_any_number_of_patients_and_refusals(tmp_path):
    first = brats_datalist(write_brats_phantom(tmp_path / "a", **{**TINY, "num_patients": 3}), "all")
    more = brats_datalist(write_brats_phantom(tmp_path / "b", **{**TINY, "num_patients": 4}), "all")
    assert [item["group"] for item in more] == ["HGG", "HGG", "HGG", "LGG"]
    assert np.array_equal(*(np.asarray(nib.load(items[0]["image"]).dataobj) for items in (first, more)))
    acdc = write_acdc_phantom(tmp_path / "c", 1, num_frames=2, shape=(16, 16, 1))
    with pytest.raises(DataError, match="other parameters"):
        write_brats_phantom(acdc, **TINY)
    for given, message in (
        ({"num_patients": 0}, "num_patients must be an integer above 0"),
        ({"layout": "2019"}, "layout must be one of"),
        ({"shape": (4, 4, 4)}, "shape must be"),
    ):
        with pytest.raises(ValueError, match=message):
            write_brats_phantom(tmp_path / "x", **given)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_slices_with_tumour_labels(tmp_path):
    data = brats_datalist(write_brats_phantom(tmp_path / "p", 2, (32, 32, 24)), "all")
    keys = ("image", "label")
    dataset = SliceDataset(
        data, prepare(keys), PresenceLabeld("label"), keys=keys, keep_key="selected", progress=False, item_keys=()
    )
    items = [dataset[index] for index in range(len(dataset))]
    assert 2 * 5 <= len(items) <= 2 * 10
    for item in items:
        assert item["class_label"] == int(item["label"].max() > 0) and (item["image"] > -0.9).float().mean() > 0.15
    assert {int(item["class_label"]) for item in items} == {0, 1}
    other = nib.Nifti1Image(np.zeros((32, 32, 20), np.uint8), np.eye(4))
    nib.save(other, tmp_path / "other_seg.nii.gz")
    with pytest.raises(DataError, match=r"other_seg.nii.gz \(key 'label'\): gives") as caught:
        SliceDataset(
            [{**data[0], "label": str(tmp_path / "other_seg.nii.gz")}], prepare(keys), keys=keys, progress=False
        )
    assert "\n" not in str(caught.value)


def test_the_rule_gives_the_scale_of_the_paper():
    """On BraTS's 155 slices of 1 mm: 6,528 slices of 285 patients are 22.9 a patient."""
    counts = []
    for seed in range(3):
        volume = brats_phantom(seed, (40, 40, 155))["t1ce"][None].astype(np.float32)
        assert 130 <= (volume > 0).any((0, 1, 2)).sum() <= 145
        data = {
            "image": ScaleIntensityRangePercentilesd("image", 0, 99.9, -1, 1, clip=True)({"image": volume})["image"]
        }
        selected = SelectSlicesd("image")(data)["selected"][0, 0, 0]
        counts.append(int(selected.sum()))
        assert np.diff(selected.nonzero().flatten().numpy()).min() == 4
    assert 20 <= min(counts) and max(counts) <= 26 and abs(np.mean(counts) - 22.9) < 1.5, counts
