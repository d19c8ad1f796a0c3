"""CineDataset: items, batches, and augmentation that depends on (seed, epoch, index) alone, alike for all keys."""

import pickle
import warnings

import pytest
import torch
from ignite.engine import Engine
from monai.data import DataLoader, MetaTensor
from monai.transforms import Compose, RandFlipd, RandRotate90d

from monai_mamba_gen.data import CineDataset, acdc_cine_datalist, write_acdc_phantom
from monai_mamba_gen.transforms import HeartCropd, LoadCined, ScaleIntensityJointlyd, SpacingEachd
from monai_mamba_gen.utils import DataError

KEYS = ["image", "target", "frames", "label", "target_label"]
SIZE = (16, 16, 8)


def prepare(num_frames="none", size=SIZE):
    mode = ["nearest" if "label" in key else "bilinear" for key in KEYS]
    return Compose(
        [
            LoadCined(num_frames, allow_missing_keys=True),
            SpacingEachd(KEYS, pixdim=(6.0, 6.0, 10.0), mode=mode, allow_missing_keys=True),
            HeartCropd(KEYS, size, allow_missing_keys=True),
            ScaleIntensityJointlyd(KEYS[:3], allow_missing_keys=True),
        ]
    )


def augment():
    flips = [RandFlipd(KEYS, 0.5, axis, allow_missing_keys=True) for axis in (0, 1)]
    return Compose([*flips, RandRotate90d(KEYS, 0.5, allow_missing_keys=True)])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_acdc_phantom(
        tmp_path_factory.mktemp("cine") / "phantom", 4, num_frames=7, shape=(24, 24, 3), spacing=(6.0, 6.0, 20.0)
    )


@pytest.fixture(scope="module")
def data(root):
    return acdc_cine_datalist(root, "all")


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(first[key], second[key]) if isinstance(first[key], torch.Tensor) else first[key] == second[key]
        for key in first
    )


def test_items(data):
    dataset = CineDataset(data, prepare(1), progress=False)
    assert len(dataset) == 4 and dataset.data == data
    item = dataset[1]
    assert {key: tuple(item[key].shape) for key in KEYS} == dict.fromkeys(KEYS, (1, *SIZE))
    assert all(type(item[key]) is torch.Tensor and item[key].dtype == torch.float32 for key in [*KEYS, "phases"])
    assert item["image"].min() == -1 and item["image"].max() == 1
    assert item["index"] == 1 and item["patient"] == "patient002" and item["source"] == data[1]["image"]
    assert (
        item["ed_frame"] == 1 and item["num_frames"] == 7 and item["seconds_per_frame"] == data[1]["seconds_per_frame"]
    )
    assert dataset[-1]["index"] == 3
    with pytest.raises(IndexError):
        dataset[4]
    item["image"].zero_()
    assert dataset[1]["image"].max() == 1, "the store is not the caller's to change"


def test_batches_of_several_patients(data):
    for num_frames in (1, "none"):
        dataset = CineDataset(data, prepare(num_frames), augment(), progress=False)
        batch = next(iter(DataLoader(dataset, batch_size=4)))
        assert batch["image"].shape == batch["target"].shape == (4, 1, *SIZE)
        assert ("frames" in batch) == (num_frames == 1)
        if num_frames == 1:
            assert batch["frames"].shape == (4, 1, *SIZE) and batch["phases"].shape == (4, 1)
        assert batch["patient"] == [item["patient"] for item in data] and batch["index"].tolist() == [0, 1, 2, 3]


def test_augmentation_follows_seed_epoch_and_index_alone(data):
    dataset = CineDataset(data, prepare(1), augment(), seed=1, progress=False)
    first = [dataset[index] for index in range(4)]
    assert all(same(dataset[index], first[index]) for index in (3, 0, 2, 1))
    dataset.set_epoch(1)
    assert dataset.epoch == 1 and not all(same(dataset[index], first[index]) for index in range(4))
    dataset.set_epoch(0)
    other = CineDataset(data, prepare(1), augment(), seed=1, cache=False, progress=False)
    assert all(same(other[index], first[index]) for index in range(4)), "with and without cache"
    other.seed = 2
    assert not all(same(other[index], first[index]) for index in range(4))


def test_workers_see_the_same_and_the_epoch(data):
    dataset = CineDataset(data, prepare(), augment(), progress=False)
    loader = DataLoader(dataset, batch_size=2, num_workers=2, persistent_workers=True)
    for epoch in (0, 3):
        dataset.set_epoch(epoch)
        expected = torch.stack([dataset[index]["image"] for index in range(4)])
        assert torch.equal(torch.cat([batch["image"] for batch in loader]), expected)
    assert same(pickle.loads(pickle.dumps(dataset))[2], dataset[2])


def test_augmentation_changes_all_keys_alike(data):
    """Every key gets the image's own voxels; then they must stay equal whatever is drawn."""
    load = prepare(1)

    def alike(item):
        loaded = load(item)
        return loaded | {key: loaded["image"].clone() for key in KEYS}

    plain = CineDataset(data, alike, progress=False)
    dataset = CineDataset(data, alike, augment(), progress=False)
    moved = 0
    for epoch in range(4):
        dataset.set_epoch(epoch)
        for index in range(4):
            item = dataset[index]
            assert all(torch.equal(item[key], item["image"]) for key in KEYS)
            moved += not torch.equal(item["image"], plain[index]["image"])
    assert moved > 8


def test_meta_is_kept_on_request_and_follows_augmentation(data):
    dataset = CineDataset(data, prepare(), keep_meta=True, progress=False)
    flipped = CineDataset(data, prepare(), RandFlipd(KEYS, 1.0, 0, allow_missing_keys=True), keep_meta=True)
    item, other = dataset[0], flipped[0]
    for key in ("image", "target", "label", "target_label"):
        assert isinstance(item[key], MetaTensor) and torch.equal(item[key].affine, item["image"].affine)
        assert torch.allclose(other[key].affine[:, 0], -item[key].affine[:, 0])
    batch = next(iter(DataLoader(dataset, batch_size=1)))
    assert isinstance(batch["image"], MetaTensor) and torch.equal(batch["image"].affine[0], item["image"].affine)


def test_keys_that_some_lack(data):
    mixed = [{key: item[key] for key in item if index != 2 or key != "label"} for index, item in enumerate(data)]
    with pytest.warns(UserWarning, match=r"1 of 4 patients have no 'label' \(first: patient003\)"):
        dataset = CineDataset(mixed, prepare(), progress=False)
    assert "label" not in dataset[0] and "target_label" in dataset[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        kept = CineDataset(mixed, prepare(), keep_meta=True, progress=False)
    assert "label" in kept[0] and "label" not in kept[2]


def test_ed_alone_is_for_inference_only(data):
    alone = [{"image": data[0]["image"], "patient": "p1"}]
    item = CineDataset(alone, prepare(), keep_meta=True, progress=False)[0]
    assert "target" not in item and item["seconds_per_frame"] == 0.0
    with pytest.raises(DataError, match="patient p1: has no 'target'"):
        CineDataset(alone, prepare(), progress=False)


@pytest.mark.parametrize("cache", [True, False])
def test_the_first_bad_patient_is_named_at_construction(data, tmp_path, cache):
    path = tmp_path / "bad.nii.gz"
    path.write_bytes(b"nothing")
    broken = [*data[:2], {**data[2], "target": str(path)}, {**data[3], "image": "missing.nii.gz"}]
    with pytest.raises(DataError, match=r"patient003: file .*bad.nii.gz \(key 'target'\): cannot be read") as caught:
        CineDataset(broken, prepare(), cache=cache, progress=False)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="data is empty"):
        CineDataset([], prepare())


def test_different_sizes_are_for_inference_only(data):
    sizes = iter([SIZE, (16, 8, 8)])

    def load(item):
        return prepare(size=next(sizes))(item)

    with pytest.raises(DataError, match=r"patient002 \(key 'image'\): volume of \(16, 8, 8\)"):
        CineDataset(data[:2], load, progress=False)


def test_the_reproducibility_handler_moves_the_epoch(data):
    from monai_mamba_gen.handlers import ReproducibilityHandler

    dataset = CineDataset(data, prepare(), augment(), progress=False)
    epochs = []
    trainer = Engine(lambda engine, batch: epochs.append((dataset.epoch, float(batch["image"].sum()))))
    ReproducibilityHandler(seed=0, datasets=dataset).attach(trainer)
    trainer.run(DataLoader(dataset, batch_size=4), max_epochs=2)
    assert [epoch for epoch, _ in epochs] == [1, 2]
