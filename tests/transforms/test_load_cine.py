"""LoadCined: which frames, on which grid, and every error in one line that names file and key."""

import struct

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose

from monai_mamba_gen.data import acdc_cine_datalist, write_acdc_phantom
from monai_mamba_gen.transforms import HeartCropd, LoadCined, ScaleIntensityJointlyd, SpacingEachd
from monai_mamba_gen.transforms.load_cine import frames_between, read_timing
from monai_mamba_gen.utils import DataError

AFFINE = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -7], [0, 0, 8, 3], [0, 0, 0, 1]])
KEYS = ["image", "target", "frames", "label", "target_label"]


def save(path, array, affine=AFFINE, seconds=None, unit="sec"):
    image = nib.Nifti1Image(array, affine)
    if seconds is not None:
        image.header.set_xyzt_units("mm", unit)
        image.header.set_zooms((*image.header.get_zooms()[:3], seconds))
    nib.save(image, path)
    return str(path)


def cine(frames=6, shape=(7, 6, 3)):
    """Frame n (1-based) lies between n and n + 0.5."""
    noise = np.random.default_rng(0).random((*shape, frames), dtype=np.float32) / 2
    return noise + np.arange(1, frames + 1, dtype=np.float32)


@pytest.fixture
def item(tmp_path):
    series = cine()
    label = (series > np.median(series[..., 0])).astype(np.uint8)
    return {
        "image": save(tmp_path / "ed.nii.gz", series[..., 0]),
        "target": save(tmp_path / "es.nii.gz", series[..., 4]),
        "label": save(tmp_path / "ed_gt.nii.gz", label[..., 0]),
        "target_label": save(tmp_path / "es_gt.nii.gz", label[..., 4]),
        "series": save(tmp_path / "4d.nii.gz", series, seconds=0.15),
        "patient": "p1",
        "ed_frame": 1,
        "es_frame": 5,
    }


def error(item, *words, **kwargs):
    with pytest.raises(DataError) as caught:
        LoadCined(**kwargs)(item)
    message = str(caught.value)
    assert "\n" not in message and all(str(word) in message for word in words), message


def numbers(frames):
    """Tell frames of `cine` apart."""
    return [int(frame.min()) for frame in frames]


def test_shapes_affine_and_what_comes_along(item):
    loaded = LoadCined()(item)
    for key in ("image", "target", "label", "target_label"):
        assert loaded[key].shape == (1, 7, 6, 3) and loaded[key].dtype == torch.float32
        assert np.allclose(loaded[key].affine, AFFINE) and loaded[key].meta["filename_or_obj"] == item[key]
    assert torch.equal(loaded["image"].as_tensor()[0], torch.from_numpy(cine()[..., 0])), "axes as in the file"
    assert "frames" not in loaded and "phases" not in loaded
    assert loaded["seconds_per_frame"] == 0.15 and loaded["num_frames"] == 6 and loaded["patient"] == "p1"


def test_all_frames_and_some(item):
    loaded = LoadCined("all")(item)
    assert numbers(loaded["frames"]) == [2, 3, 4] and loaded["frames"].shape == (3, 7, 6, 3)
    assert torch.equal(loaded["phases"], torch.tensor([1 / 4, 2 / 4, 3 / 4])) and np.allclose(
        loaded["frames"].affine, AFFINE
    )
    loaded = LoadCined(1)(item)
    assert numbers(loaded["frames"]) == [3] and loaded["phases"].tolist() == [0.5]
    loaded = LoadCined(2)(item)
    assert len(set(numbers(loaded["frames"]))) == 2
    assert "frames" not in LoadCined(0)(item)
    error(item, "patient p1", "3 frames between", "num_frames=4", num_frames=4)


def test_frames_wrap_round_the_end_of_the_cycle(item):
    item |= {"image": item["series"], "target": item["series"], "ed_frame": 5, "es_frame": 2}
    loaded = LoadCined("all")({key: item[key] for key in item if "label" not in key})
    assert numbers([loaded["image"], loaded["target"]]) == [5, 2]
    assert numbers(loaded["frames"]) == [6, 1] and torch.equal(loaded["phases"], torch.tensor([1 / 3, 2 / 3]))


@pytest.mark.parametrize("count", [2, 5, 8, 30])
def test_phases_are_exact_for_every_pair(count):
    for ed in range(1, count + 1):
        for es in set(range(1, count + 1)) - {ed}:
            steps = (es - ed) % count
            frames, phases = frames_between(ed, es, count)
            assert frames == [(ed - 1 + step) % count + 1 for step in range(1, steps)]
            assert phases == [step / steps for step in range(1, steps)]


@pytest.mark.parametrize("wanted", range(1, 12))
def test_evenly_chosen_frames_are_different_ones_near_even_phases(tmp_path, wanted):
    path = save(tmp_path / "4d.nii.gz", cine(13, (4, 4, 2)))
    loaded = LoadCined(wanted, es_frame=13)({"image": path})
    even = torch.arange(1, wanted + 1) / (wanted + 1)
    assert loaded["phases"].shape == (wanted,) and len(set(numbers(loaded["frames"]))) == wanted
    assert bool(((loaded["phases"] - even).abs() <= 0.5 / 12 + 1e-6).all())


def test_no_series(item):
    del item["series"]
    assert "frames" not in LoadCined("all")(item)
    assert LoadCined()(item)["seconds_per_frame"] == 0.0 and LoadCined()(item)["num_frames"] == 0
    error(item, "patient p1", "num_frames=2", num_frames=2)


def test_ed_and_es_next_to_each_other_have_no_frames(item):
    assert "frames" not in LoadCined("all")(item | {"es_frame": 2})


def test_ed_and_es_from_the_series_alone(item):
    loaded = LoadCined()({key: item[key] for key in ("series", "ed_frame", "es_frame")})
    assert numbers([loaded["image"], loaded["target"]]) == [1, 5]


def test_ed_alone(item):
    alone = {key: item[key] for key in ("image", "label", "target_label", "patient")}
    loaded = LoadCined("all", allow_missing_keys=True)(alone)
    assert loaded["image"].shape == (1, 7, 6, 3) and loaded["label"].shape == (1, 7, 6, 3)
    assert "target" not in loaded and "frames" not in loaded
    error(alone, item["image"], "key 'image'", "1 frame")


@pytest.mark.parametrize(("argument", "expected"), [(None, 6), (3, 3)])
def test_a_4d_image_alone(item, argument, expected):
    path = item["series"]
    loaded = LoadCined("all", es_frame=argument)({"image": path, "image_path": path})
    assert numbers([loaded["image"], loaded["target"]]) == [1, expected]
    assert (loaded["ed_frame"], loaded["es_frame"]) == (1, expected)
    assert numbers(loaded["frames"]) == list(range(2, expected)) and loaded["seconds_per_frame"] == 0.15


def test_slightly_different_headers_become_one(item, tmp_path):
    other = AFFINE.copy()
    other[:3, 3] += 3
    other[0, 1] *= 1.005
    item["target"] = save(tmp_path / "es.nii.gz", cine()[..., 4], other)
    loaded = LoadCined()(item)
    assert np.allclose(loaded["target"].affine, AFFINE)
    assert np.allclose(loaded["target"].meta["original_affine"], AFFINE)
    other[0, 1] *= 1.01
    save(item["target"], cine()[..., 4], other)
    error(item, item["target"], "key 'target'", "spacing")


@pytest.mark.parametrize("key", ["target", "label", "target_label", "series"])
def test_other_shape(item, key):
    array = cine(shape=(7, 5, 3)) if key == "series" else cine(shape=(7, 5, 3))[..., 4]
    save(item[key], array)
    error(item, item[key], f"key '{key}'", "(7, 5, 3)", "(7, 6, 3)", num_frames="all")


@pytest.mark.parametrize("key", ["image", "target", "label", "series"])
def test_nan_constant_spacing_and_unreadable(item, key, tmp_path):
    series = cine() if key == "series" else cine()[..., 3]
    bad = series.copy()
    bad[2, 2, 1] = np.nan
    save(item[key], bad)
    error(item, item[key], f"key '{key}'", "NaN", num_frames="all")
    if key != "label":
        bad = series.copy()
        bad[..., 2] = 7
        if key != "series":
            bad[:] = 7
        save(item[key], bad)
        error(item, item[key], f"key '{key}'", "constant volume, every voxel is 7", num_frames="all")
    content = bytearray(open(save(tmp_path / "good.nii", series), "rb").read())
    struct.pack_into("<3f", content, 80, 1.5, 1.5, -1.0)
    path = str(tmp_path / f"bad_{key}.nii")
    open(path, "wb").write(bytes(content))
    error(item | {key: path}, path, f"key '{key}'", "spacing must be above 0", num_frames="all")
    open(path, "wb").write(b"nothing")
    error(item | {key: path}, path, f"key '{key}'", "cannot be read", num_frames="all")
    error(item | {key: path + "x"}, path + "x", f"key '{key}'", "no such file", num_frames="all")


def test_es_is_ed_and_a_cine_of_one_frame(item, tmp_path):
    error(item | {"target": save(tmp_path / "copy.nii.gz", cine()[..., 0])}, "copy.nii.gz (key 'target')", "identical")
    error(item | {"es_frame": 1}, item["target"], "both frame 1")
    one = save(tmp_path / "one.nii.gz", cine(1))
    error({"image": one}, one, "key 'image'", "1 frame")
    error(item | {"series": one}, one, "key 'series'", "1 frame", num_frames="all")


def test_frames_that_are_not_there(item):
    error({"image": item["series"]}, item["series"], "6 frames, frame 9", es_frame=9)
    error(item | {"es_frame": 9}, item["series"], "key 'series'", "6 frames, frame 9", num_frames="all")
    error(item | {"label": item["series"], "ed_frame": None}, "key 'label'", "no frame number")
    error({"patient": "p1"}, "patient p1", "neither 'image' nor 'series'")
    flat = save(item["image"], cine()[:, :, 0, 0])
    error(item, flat, "key 'image'", "2 spatial dimensions")


@pytest.mark.parametrize("wrong", [{"num_frames": -1}, {"num_frames": "some"}, {"num_frames": True}, {"es_frame": 0}])
def test_arguments(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LoadCined(**wrong)


@pytest.mark.parametrize(
    ("seconds", "unit", "expected"),
    [(0.04, "sec", 0.04), (40, "msec", 0.04), (0.04, "unknown", 0.04), (1.0, "sec", None), (0.0, "sec", None)],
)
def test_timing(tmp_path, seconds, unit, expected):
    path = save(tmp_path / "4d.nii.gz", cine(20, (4, 4, 2)), seconds=seconds, unit=unit)
    assert read_timing(path) == (20, expected)


def pipeline(size=(128, 128, 32), spacing=(1.5, 1.5, 3.15)):
    mode = ["nearest" if "label" in key else "bilinear" for key in KEYS]
    return Compose(
        [
            LoadCined("all", allow_missing_keys=True),
            SpacingEachd(KEYS, pixdim=spacing, mode=mode, allow_missing_keys=True),
            HeartCropd(KEYS, size, allow_missing_keys=True),
            ScaleIntensityJointlyd(KEYS[:3], allow_missing_keys=True),
        ]
    )


def check(item, size=(128, 128, 32)):
    prepared, raw = pipeline(size)(item), LoadCined("all")(item)
    for key in KEYS:
        assert (key in prepared) == (key in raw)
        if key in prepared:
            assert prepared[key].shape[1:] == size and torch.equal(prepared[key].affine, prepared["image"].affine)
    assert bool((prepared["image"].abs() <= 1).all()) and prepared["image"].std() > 0.1
    centre, heart = _centre(prepared["label"]), _centre(raw["label"])
    assert (centre[0] - heart[0]).abs().max() < 3, "mm; nearest neighbour in slices of 8 to 12 mm"
    assert (centre[1][:2] - (torch.tensor(size[:2]) - 1) / 2).abs().max() < size[0] / 8
    return prepared


def _centre(label):
    places = (label[0] > 0).nonzero().double().mean(0)
    return (label.affine.double() @ torch.tensor([*places.tolist(), 1.0]).double())[:3], places


def test_world_coordinates_survive_the_whole_pipeline(tmp_path):
    """A volume that holds a world coordinate holds it still, up to one linear function, where it is not padding."""
    grid = np.stack(np.meshgrid(*(np.arange(side) for side in (20, 17, 6)), np.ones(1), indexing="ij"))[..., 0]
    world = np.einsum("ij,jxyz->ixyz", AFFINE, grid)[:3]
    volume = (world * np.array([1, 3, 5]).reshape(3, 1, 1, 1)).sum(0).astype(np.float32)
    noise = np.random.default_rng(0).random((20, 17, 6), dtype=np.float32)
    item = {"image": save(tmp_path / "a.nii", volume), "target": save(tmp_path / "b.nii", noise)}
    prepared = Compose([*pipeline((9, 8, 5)).transforms[:3]])(item)["image"]
    grid = np.stack(np.meshgrid(*(np.arange(side) for side in (9, 8, 5)), np.ones(1), indexing="ij"))[..., 0]
    world = np.einsum("ij,jxyz->ixyz", prepared.affine.numpy(), grid)[:3]
    expected = (world * np.array([1, 3, 5]).reshape(3, 1, 1, 1)).sum(0)
    assert np.allclose(prepared.numpy()[0], expected, atol=1e-3)


def test_phantom_through_the_pipeline(tmp_path):
    root = write_acdc_phantom(tmp_path / "phantom", 2, num_frames=5, shape=(48, 48, 5), spacing=(3.0, 3.0, 12.0))
    for item in acdc_cine_datalist(root, "all"):
        prepared = check(item, (64, 64, 24))
        assert len(prepared["phases"]) == prepared["frames"].shape[0] == item["es_frame"] - 2


@pytest.mark.parametrize("name", ["acdc", "sunnybrook_cine"])
def test_real_patients_through_the_pipeline(shared_data, name):
    for item in acdc_cine_datalist(shared_data / name, "all")[:3]:
        prepared = check(item)
        assert ("frames" in prepared) == (name == "sunnybrook_cine")
        assert (prepared["seconds_per_frame"] > 0) == (name == "sunnybrook_cine")
