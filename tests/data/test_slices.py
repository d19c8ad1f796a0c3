"""SliceDataset: which slices there are, and that their augmentation depends on (seed, epoch, index) alone."""

import pickle
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    RandFlipd,
    RandGaussianNoised,
    ScaleIntensityRangePercentilesd,
)
from PIL import Image

from monai_mamba_gen.data import SliceDataset, acdc_datalist, load_volume, write_acdc_phantom
from monai_mamba_gen.transforms import CheckVolumed, ResizeCenterCropd
from monai_mamba_gen.utils import DataError

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


def prepare(size=16, keys=("image",)):
    labels = [key != "image" for key in keys]
    return Compose(
        [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            CheckVolumed(keys, allow_constant=labels),
            ResizeCenterCropd(keys, size, mode=["nearest" if label else "bilinear" for label in labels]),
            ScaleIntensityRangePercentilesd("image", 0.5, 99.5, -1, 1, clip=True),
        ]
    )


def augment():
    keys = ["image"]
    return Compose([RandFlipd(keys, 0.5, 0), RandFlipd(keys, 0.5, 1), RandGaussianNoised(keys, 0.5, std=0.1)])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_acdc_phantom(
        tmp_path_factory.mktemp("slices") / "phantom", 2, num_frames=3, shape=(24, 24, 3), spacing=(6.0, 6.0, 20.0)
    )


def test_counts_values_and_places(root):
    data = acdc_datalist(root, "all")
    dataset = SliceDataset(data, prepare(), progress=False)
    assert dataset.data == data and len(dataset) == 2 * 2 * 3
    images = dataset.images()
    assert images.shape == (12, 1, 16, 16) and images.dtype == torch.float32
    assert images.min() == -1 and images.max() == 1
    item = dataset[4]
    assert torch.equal(item["image"], images[4]) and type(item["image"]) is torch.Tensor
    assert {key: item[key] for key in ("index", "patient", "phase", "slice", "group")} == {
        "index": 4,
        "patient": "patient001",
        "phase": "ES",
        "slice": 1,
        "group": "NOR",
    }
    assert item["source"] == data[1]["image"] and item["frame"] == data[1]["frame"]
    assert dataset[-1]["index"] == 11
    with pytest.raises(IndexError):
        dataset[12]
    item["image"].zero_()
    assert torch.equal(dataset[4]["image"], images[4]), "the store is not the caller's to change"


def test_series_gives_frames_times_slices_in_order(root):
    data = acdc_datalist(root, "all", phases="all")
    dataset = SliceDataset(data, Compose([LoadImaged("image"), EnsureChannelFirstd("image")]), progress=False)
    assert len(dataset) == 2 * 3 * 3
    for number, item in enumerate(data):
        series = np.asarray(nib.load(item["image"]).dataobj)
        for row in range(9):
            taken = dataset[number * 9 + row]
            expected = series[:, :, taken["slice"], taken["frame"] - 1]
            assert np.array_equal(taken["image"][0].numpy(), expected)
            assert (taken["frame"], taken["slice"]) == (row // 3 + 1, row % 3)


def test_one_frame_of_a_series_equals_the_frame_file(root):
    files = acdc_datalist(root, "all")
    series = acdc_datalist(root, "all", phases="all")
    asked = [{**item, "image": series[i // 2]["image"], "series": True} for i, item in enumerate(files)]
    keys = ("image", "label")
    load = Compose([LoadImaged(keys), EnsureChannelFirstd(keys), CheckVolumed("image")])
    one, other = (SliceDataset(data, load, keys=keys, progress=False) for data in (files, asked))
    assert torch.equal(one.images(), other.images())
    assert [one[i]["frame"] for i in range(12)] == [other[i]["frame"] for i in range(12)]
    assert torch.equal(one[5]["label"], other[5]["label"])
    with pytest.raises(DataError, match=r"4d.nii.gz \(key 'image'\): has 3 frames, frame 4 is asked for"):
        SliceDataset([{**asked[0], "frame": 4}], load, progress=False)


def test_labels_follow_their_images(root):
    keys = ("image", "label")
    dataset = SliceDataset(acdc_datalist(root, "all"), prepare(24, keys), keys=keys, progress=False)
    item = dataset[1]
    assert item["label"].shape == (1, 24, 24) and set(item["label"].unique().tolist()) <= {0.0, 1.0, 2.0, 3.0}
    assert item["image"][item["label"] == 3].mean() > item["image"][item["label"] == 2].mean()
    without = [{key: value for key, value in dataset.data[0].items() if key != "label"}]
    with pytest.raises(DataError, match="frame01.nii.gz: has no 'label'"):
        SliceDataset(without, prepare(24, keys), keys=keys, progress=False)
    other = nib.Nifti1Image(np.zeros((24, 24, 2), np.uint8), np.eye(4))
    path = root.parent / "short_gt.nii.gz"
    nib.save(other, path)
    with pytest.raises(DataError, match=r"short_gt.nii.gz \(key 'label'\): gives 2 slices"):
        SliceDataset([{**dataset.data[0], "label": str(path)}], prepare(24, keys), keys=keys, progress=False)


def test_blank_slices_and_axes():
    volume = torch.arange(4 * 5 * 6, dtype=torch.float32).reshape(1, 4, 5, 6).clone()
    volume[..., 2] = 7.0

    def load(item):
        return {"image": MetaTensor(volume)}

    data = [{"image": "a"}]
    dataset = SliceDataset(data, load, progress=False)
    assert [dataset[i]["slice"] for i in range(len(dataset))] == [0, 1, 3, 4, 5]
    assert torch.equal(dataset[2]["image"], volume[..., 3])
    assert len(SliceDataset(data, load, progress=False, drop_blank=False)) == 6
    for axis, size in ((0, (4, 5, 6)), (1, (5, 4, 6)), (-3, (4, 5, 6))):
        cut = SliceDataset(data, load, progress=False, slice_axis=axis)
        assert (len(cut), *cut[0]["image"].shape[1:]) == size
    flat = SliceDataset(data, lambda item: {"image": volume[..., 0]}, progress=False)
    assert len(flat) == 1 and torch.equal(flat[0]["image"], volume[..., 0])


def _batches(dataset, workers, order=None):
    sampler = list(range(len(dataset))) if order is None else order
    loader = DataLoader(dataset, batch_size=5, num_workers=workers, sampler=sampler, persistent_workers=workers > 0)
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        batches = list(loader)
        index = torch.cat([batch["index"] for batch in batches])
        yield torch.cat([batch["image"] for batch in batches])[index.argsort()], batches[0]


def test_augmentation_depends_on_the_key_alone(root):
    data = acdc_datalist(root, "all")
    dataset = SliceDataset(data, prepare(), augment(), seed=1, progress=False)
    (first, batch), (second, _) = _batches(dataset, workers=0)
    assert type(batch["image"]) is torch.Tensor and batch["patient"][0] == "patient001"
    assert not torch.equal(first, second)
    (a, _), (b, _) = _batches(dataset, workers=2, order=[7, 3, 11, 0, 1, 2, 10, 9, 8, 4, 6, 5])
    assert torch.equal(first, a) and torch.equal(second, b), "persistent workers see the epoch, order does not matter"
    dataset.set_epoch(0)
    assert torch.equal(dataset[3]["image"], first[3]) and torch.equal(dataset[3]["image"], first[3])
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[5]["image"], first[5])
    other = SliceDataset(data, prepare(), augment(), seed=2, progress=False)
    assert not torch.equal(other[3]["image"], first[3]) or not torch.equal(other[4]["image"], first[4])
    assert torch.equal(dataset.images(), SliceDataset(data, prepare(), progress=False).images())
    assert torch.equal(torch.stack([dataset.image(index) for index in range(len(dataset))]), dataset.images())


def test_flips_only_flip(root):
    flips = Compose([RandFlipd("image", 0.5, 0), RandFlipd("image", 0.5, 1)])
    dataset = SliceDataset(acdc_datalist(root, "all"), prepare(), flips, progress=False)
    seen = set()
    for epoch in range(3):
        dataset.set_epoch(epoch)
        for index, image in enumerate(dataset.images()):
            variants = {(): image, (1,): image.flip(1), (2,): image.flip(2), (1, 2): image.flip(1, 2)}
            hits = [dims for dims, variant in variants.items() if torch.equal(dataset[index]["image"], variant)]
            assert hits
            seen.update(hits)
    assert len(seen) == 4


def _spoiled(root, tmp_path, write):
    item = dict(acdc_datalist(root, "all")[0])
    item["image"] = str(tmp_path / "patient001_frame01.nii.gz")
    write(item["image"])
    with pytest.raises(DataError) as caught:
        SliceDataset([item], prepare(), progress=False)
    message = str(caught.value)
    assert message.startswith(f"file {item['image']} (key 'image'): ") and "\n" not in message
    return message


def test_unreadable_files(root, tmp_path):
    whole = Path(acdc_datalist(root, "all")[0]["image"]).read_bytes()
    for content in (whole[: len(whole) // 2], whole[:100], b"", b"no image"):
        message = _spoiled(root, tmp_path, lambda path, content=content: Path(path).write_bytes(content))
        assert ": cannot be read: " in message
    assert "No such file" in _spoiled(root, tmp_path, lambda path: Path(path).unlink())


def test_colour_nan_and_constant_files(root, tmp_path):
    def save(array):
        return lambda path: nib.save(nib.Nifti1Image(array, np.eye(4)), path)

    colour = np.zeros((24, 24, 3), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    assert "a 3-channel colour image" in _spoiled(root, tmp_path, save(colour))
    noise = np.random.default_rng(0).random((24, 24, 3, 3), dtype=np.float32)
    assert "3 channels in a file of one frame" in _spoiled(root, tmp_path, save(noise))
    holes = noise[..., 0].copy()
    holes[3, 4, :2] = np.nan
    assert "2 of 1728 voxels are NaN" in _spoiled(root, tmp_path, save(holes))
    assert "constant volume" in _spoiled(root, tmp_path, save(np.zeros((24, 24, 3), np.int16)))


def test_the_key_of_the_broken_file_is_named(root, tmp_path):
    item = dict(acdc_datalist(root, "all")[0], label=str(tmp_path / "gone_gt.nii.gz"))
    with pytest.raises(DataError, match=r"^file .*gone_gt.nii.gz \(key 'label'\): cannot be read: "):
        load_volume(item, prepare(16, ("image", "label")), ("image", "label"))


def test_other_errors(tmp_path):
    with pytest.raises(DataError, match="data is empty"):
        SliceDataset([], prepare(), progress=False)
    with pytest.raises(DataError, match="blank"):
        SliceDataset([{"image": "a"}], lambda item: {"image": torch.zeros(1, 4, 4, 2)}, progress=False)
    sizes = iter((4, 5))
    with pytest.raises(DataError, match="file b .*slices of .*resize in volume_transform"):
        SliceDataset(
            [{"image": "a"}, {"image": "b"}], lambda item: {"image": torch.rand(1, next(sizes), 4)}, progress=False
        )
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "colour.png")
    with pytest.raises(DataError, match=r"colour.png \(key 'image'\): 3 channels"):
        SliceDataset([{"image": str(tmp_path / "colour.png")}], prepare(), progress=False)


def test_real_acdc(capsys):
    if not (REAL / "acdc").is_dir():
        pytest.skip("real ACDC volumes are not here (../shared/data/acdc)")
    data = acdc_datalist(REAL / "acdc", "validation")
    start = time.perf_counter()
    dataset = SliceDataset(data, prepare(64), progress=False)
    with capsys.disabled():
        print(f" [{len(data)} ACDC volumes, {len(dataset)} slices in {time.perf_counter() - start:.1f} s]")
    depths = sum(nib.load(item["image"]).shape[2] for item in data)
    assert len(data) == 18 and len(dataset) == depths
    assert -0.9 < dataset.images().mean() < 0.3


def test_real_cine():
    if not (REAL / "sunnybrook_cine").is_dir():
        pytest.skip("real cine series are not here (../shared/data/sunnybrook_cine)")
    data = acdc_datalist(REAL / "sunnybrook_cine", "validation", phases="all")
    dataset = SliceDataset(data, prepare(32), progress=False)
    shape = nib.load(data[0]["image"]).shape
    assert len(data) == 1 and len(dataset) == shape[2] * shape[3]
    assert len(SliceDataset(acdc_datalist(REAL / "sunnybrook_cine", "validation"), prepare(32), progress=False)) > 0


def _volume(blank=(), levels=5):
    volume = torch.rand(1, 6, 6, levels, generator=torch.Generator().manual_seed(levels))
    mask = torch.ones_like(volume)
    for level in blank:
        mask[..., level] = 0
    return {"image": volume, "mask": mask}


def test_position_in_the_volume():
    dataset = SliceDataset([{"image": "a"}, {"image": "b"}], lambda item: _volume(), progress=False)
    assert [dataset[i]["position"] for i in range(10)] == [0, 0.25, 0.5, 0.75, 1.0] * 2
    flat = SliceDataset([{"image": "a"}], lambda item: {"image": torch.rand(1, 4, 4)}, progress=False)
    assert flat[0]["position"] == 0.0
    kept = SliceDataset([{"image": "a"}], lambda item: _volume((0, 3)), keep_key="mask", progress=False)
    assert [kept[i]["position"] for i in range(3)] == [0.25, 0.5, 1.0], "of the whole volume, not of what is kept"


@pytest.mark.parametrize("keys", [("image",), ("image", "mask")])
def test_slices_outside_a_mask_are_left_out(keys):
    dataset = SliceDataset([{"image": "a"}], lambda item: _volume((0, 3)), keys=keys, keep_key="mask", progress=False)
    assert [dataset[i]["slice"] for i in range(len(dataset))] == [1, 2, 4]
    assert ("mask" in dataset[0]) == ("mask" in keys)
    assert torch.equal(dataset[1]["image"], _volume()["image"][..., 2])
    with pytest.raises(DataError, match="blank or without 'mask'"):
        SliceDataset([{"image": "a"}], lambda item: _volume(range(5)), keep_key="mask", progress=False)
    with pytest.raises(DataError, match="volume a: has no 'label'"):
        SliceDataset([{"image": "a"}], lambda item: _volume(), keep_key="label", progress=False)


def test_a_mask_that_the_transform_makes(root):
    def load(item):
        loaded = Compose([LoadImaged("image"), EnsureChannelFirstd("image")])(item)
        return {**loaded, "mask": (loaded["image"] > 100).float()}

    dataset = SliceDataset(acdc_datalist(root, "all"), load, keys=("image", "mask"), progress=False)
    assert 0 < dataset[0]["mask"].mean() < 1


def test_half_precision_store(root):
    data = acdc_datalist(root, "all")
    full, half = (SliceDataset(data, prepare(), store_dtype=dtype, progress=False) for dtype in (None, "float16"))
    assert half[0]["image"].dtype == half.images().dtype == torch.float32
    assert 0 < (full.images() - half.images()).abs().max() <= 2.5e-4
    assert half._volumes[0].stacks["image"]._source.dtype == torch.float16
    with pytest.raises(ValueError, match="store_dtype must be one of"):
        SliceDataset(data, prepare(), store_dtype="int8", progress=False)
    large = [{"image": "a.nii", "patient": "a"}]
    with pytest.raises(DataError, match=r"file a.nii \(key 'image'\): values up to .* do not fit float16"):
        SliceDataset(large, lambda item: {"image": 1e6 * torch.rand(1, 4, 4, 2)}, store_dtype="float16", progress=False)


class _Counted:
    """A volume transform with a setting, that counts its calls in a file's stead."""

    calls = 0

    def __init__(self, size=16):
        self.size = size

    def __call__(self, item):
        type(self).calls += 1
        return prepare(self.size, ("image", "label"))(item)


def _cached(data, folder, transform=None, **given):
    before = _Counted.calls
    dataset = SliceDataset(
        data, transform or _Counted(), keys=("image", "label"), cache_dir=folder, progress=False, **given
    )
    return dataset, _Counted.calls - before


def test_cached_slices_are_the_same_and_are_used_again(root, tmp_path):
    data = acdc_datalist(root, "all")
    plain = SliceDataset(data, prepare(16, ("image", "label")), keys=("image", "label"), progress=False)
    folder = tmp_path / "new" / "cache"
    for expected in (4, 0):
        dataset, calls = _cached(data, folder)
        assert calls == expected and torch.equal(dataset.images(), plain.images())
        for index in (0, 5, 11):
            one, other = dataset[index], plain[index]
            assert all(torch.equal(one[key], other[key]) for key in ("image", "label"))
            assert all(one[key] == other[key] for key in set(one) - {"image", "label"})
    assert len(list(folder.iterdir())) == 4
    loader = DataLoader(pickle.loads(pickle.dumps(dataset)), batch_size=4, num_workers=1)
    assert torch.equal(torch.cat([batch["image"] for batch in loader]), plain.images())


def test_cache_is_made_anew_for_other_files_and_settings(root, tmp_path):
    image = tmp_path / "patient001_frame01.nii.gz"
    image.write_bytes(Path(acdc_datalist(root, "all")[0]["image"]).read_bytes())
    data = [{**acdc_datalist(root, "all")[0], "image": str(image)}]
    folder = tmp_path / "cache"
    assert [_cached(data, folder)[1] for _ in range(2)] == [1, 0]
    assert _cached(data, folder, _Counted(20))[0][0]["image"].shape == (1, 20, 20)
    assert _cached(data, folder, drop_blank=False)[1] == 1
    assert _cached(data, folder, store_dtype="float16")[1] == 1
    assert _cached(data, folder, keep_key="label")[1] == 1
    assert _cached([{**data[0], "frame": 1, "series": True}], folder)[1] == 1
    array = np.asarray(nib.load(image).dataobj)
    nib.save(nib.Nifti1Image(array[::-1], np.eye(4)), image)
    changed, calls = _cached(data, folder)
    assert calls == 1 and changed[0]["index"] == 0
    fresh = SliceDataset(data, prepare(16, ("image", "label")), keys=("image", "label"), progress=False)
    assert torch.equal(changed.images(), fresh.images())
    for entry in folder.iterdir():
        (entry / "0.npy").write_bytes(b"damaged")
    assert _cached(data, folder)[1] == 1 and torch.equal(_cached(data, folder)[0].images(), fresh.images())


def _picture(item):
    return {"image": torch.rand(1, 4, 4, 3, generator=torch.Generator().manual_seed(0))}


def test_numbers_of_the_item_reach_its_slices():
    data = [{"image": name, "class_label": label, "age": age} for name, label, age in (("a", 1, 0.5), ("b", 0, 2.0))]
    dataset = SliceDataset(data, _picture, progress=False)
    labels = [dataset[index]["class_label"] for index in range(6)]
    assert torch.stack(labels).tolist() == [1, 1, 1, 0, 0, 0] and labels[0].dtype == torch.int64
    assert (
        "age" not in dataset[0] and "class_label" not in SliceDataset(data, _picture, item_keys=(), progress=False)[0]
    )
    batch = next(iter(DataLoader(SliceDataset(data, _picture, item_keys=("age",), progress=False), batch_size=6)))
    assert batch["age"].tolist() == [0.5, 0.5, 0.5, 2, 2, 2] and "class_label" not in batch
    assert "class_label" not in SliceDataset([{"image": "a"}], _picture, progress=False)[0], "there is none"
    changed = SliceDataset(data, _picture, lambda item: item | {"class_label": torch.tensor(7)}, progress=False)
    assert changed[0]["class_label"] == 7, "a transform has the last word"


def test_numbers_that_are_missing_or_none():
    for second, message in (
        ({}, "volume b: has no 'class_label'"),
        ({"class_label": "x"}, "'class_label' is no number"),
    ):
        with pytest.raises(DataError, match=message):
            SliceDataset([{"image": "a", "class_label": 1}, {"image": "b", **second}], _picture, progress=False)


def test_the_cache_never_mixes_up_class_labels(root, tmp_path):
    data = acdc_datalist(root, "all")[:1]
    for label in (0, 1, 0):
        dataset = SliceDataset([{**data[0], "class_label": label}], prepare(), progress=False, cache_dir=tmp_path / "c")
        assert {int(dataset[index]["class_label"]) for index in range(len(dataset))} == {label}


def test_more_cached_volumes_than_files_may_be_open(tmp_path):
    resource = pytest.importorskip("resource", reason="limits of a process are Unix's")
    data = []
    for number in range(60):
        (tmp_path / f"{number}.nii").write_bytes(b"x")
        data.append({"image": str(tmp_path / f"{number}.nii")})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 64
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 30, hard))
    try:
        dataset = SliceDataset(data, _picture, progress=False, cache_dir=tmp_path / "cache")
        assert len(dataset) == 180 and torch.equal(dataset[179]["image"], dataset[2]["image"])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
