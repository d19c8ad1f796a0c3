import pytest
import torch
from torch import nn

from monai_mamba_gen.metrics import FeatureCollector, FeatureSet, ModuleFeatures, RandomConvFeatures, images
from monai_mamba_gen.metrics.images import (
    content_hash,
    from_eight_bit,
    image_batches,
    image_keys,
    load_images,
    to_eight_bit,
)
from monai_mamba_gen.utils.errors import DataError


def randu(n, size=8, seed=0):
    return torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_eight_bits_there_and_back():
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(to_eight_bit(from_eight_bit(every)), every)


def test_keys_depend_on_pixels_and_shape():
    images = to_eight_bit(randu(3))
    keys = image_keys(images)
    assert len(set(keys.tolist())) == 3
    assert torch.equal(image_keys(images.flip(0)), keys.flip(0))
    assert image_keys(torch.zeros(1, 1, 2, 8, dtype=torch.uint8)) != image_keys(
        torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    )
    assert content_hash(keys) == content_hash(keys.flip(0)) != content_hash(keys[:2])


def test_order_and_batches_do_not_matter():
    images = randu(11)
    results = []
    for order, batch in ((torch.arange(11), 4), (torch.arange(11).flip(0), 3)):
        collector = FeatureCollector(RandomConvFeatures(4), "synthetic", keep=5, batch_size=2)
        for part in images[order].split(batch):
            collector.add(part)
        results.append((collector.gather(), collector.gather_images()))
    (first, kept), (second, kept_too) = results
    assert torch.equal(first.keys, second.keys)
    assert torch.equal(kept, kept_too)
    assert kept.shape == (5, 1, 8, 8)
    torch.testing.assert_close(first.features, second.features)
    torch.testing.assert_close(first.moments.outer, FeatureSet(second.features, second.keys).moments.outer)


def test_collector_names_the_set_it_refuses():
    collector = FeatureCollector(RandomConvFeatures(4), "synthetic", keep=5)
    with pytest.raises(DataError, match=r"synthetic images must be \(N, 1, H, W\)"):
        collector.add(torch.zeros(1, 3, 8, 8))
    with pytest.raises(DataError, match="synthetic images hold NaN"):
        collector.add(torch.full((1, 1, 8, 8), float("nan")))
    collector.add(randu(1))
    with pytest.raises(DataError, match="synthetic images must have one size"):
        collector.add(randu(1, size=16))
    broken = ModuleFeatures(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), "broken", "none", dim=2)
    broken.module[1].bias.data.fill_(float("inf"))
    with pytest.raises(DataError, match=r"features of the real images hold NaN or infinite values \(broken\)"):
        FeatureCollector(broken, "real").add(randu(2))
    with pytest.raises(DataError, match="synthetic images must be there"):
        FeatureCollector(RandomConvFeatures(4), "synthetic").gather_images()


def test_feature_set_subsets_are_keyed():
    features = FeatureSet(torch.arange(9.0)[:, None], torch.arange(9))
    first, second = features.halves(0, "floor")
    assert len(first) == len(second) == 4
    assert not set(first.keys.tolist()) & set(second.keys.tolist())
    assert torch.equal(features.halves(0, "floor")[0].keys, first.keys)
    assert not torch.equal(features.halves(1, "floor")[0].keys, first.keys)
    assert len(features.subset(5, 0)) == 5
    assert len(features.subset(50, 0)) == 9
    with pytest.raises(ValueError, match="keys"):
        FeatureSet(torch.zeros(3, 2), torch.zeros(2))


def test_feature_set_saves_and_loads(tmp_path):
    features = FeatureSet(torch.rand(5, 3), torch.arange(5))
    features.save(tmp_path / "real.npz", extractor="dummy")
    loaded = FeatureSet.load(tmp_path / "real.npz")
    assert torch.equal(loaded.features, features.features)
    assert torch.equal(loaded.keys, features.keys)
    (tmp_path / "real.npz").write_bytes(b"PK broken")
    with pytest.raises(DataError, match=r"real\.npz: not a readable file of features"):
        FeatureSet.load(tmp_path / "real.npz")


def test_load_images_from_a_list_and_from_an_object():
    images = randu(3)

    class Slices:
        def images(self):
            return images

    assert torch.equal(load_images([{"image": image} for image in images]), to_eight_bit(images))
    assert torch.equal(load_images(Slices()), to_eight_bit(images))


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "reference images: 0 found"),
        ([{"label": 1}], r"reference images, item 0: no key 'image', only \['label'\]"),
        ([{"image": torch.zeros(3, 8, 8)}], r"item 0, key 'image': shape must be \(1, H, W\), got \(3, 8, 8\)"),
        ([{"image": torch.full((1, 8, 8), float("nan"))}], "item 0, key 'image': holds NaN"),
        ([{"image": torch.full((1, 8, 8), 255.0)}], r"values must be in \[-1, 1\], got 255 to 255"),
        ([{"image": torch.zeros(1, 8, 8)}, {"image": torch.zeros(1, 8, 9)}], "item 1.*is not the first one's"),
    ],
)
def test_load_images_refuses(items, message):
    with pytest.raises(DataError, match=message):
        load_images(items, "reference")


class OneByOne:
    """A set that makes each image when it is asked for it, and counts how many there were at once."""

    def __init__(self, n):
        self.n, self.taken = n, []

    def __len__(self):
        return self.n

    def image(self, index):
        self.taken.append(index)
        return randu(1, seed=index)[0]


def test_image_batches_are_taken_one_after_the_other(monkeypatch):
    dataset = OneByOne(11)
    batches = image_batches(dataset, batch_size=4)
    assert dataset.taken == [] and len(next(batches)) == 4 and dataset.taken == [0, 1, 2, 3]
    whole = list(image_batches(dataset, batch_size=4))
    assert torch.equal(torch.cat(whole), to_eight_bit(torch.cat([randu(1, seed=index) for index in range(11)])))
    monkeypatch.setattr(images, "get_world_size", lambda: 2)
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(images, "get_rank", lambda rank=rank: rank)
        shares.append(list(image_batches(dataset, batch_size=4)))
    assert [len(batch) for batch in shares[0]] == [4, 3] and torch.equal(shares[1][0], whole[1])
    monkeypatch.setattr(images, "get_rank", lambda: 3)
    with pytest.raises(DataError, match="leave none for process 3"):
        load_images(dataset)


def test_bounded_features_and_moments_of_all():
    """Whatever order and batches they come in, the same features are kept; the moments are those of all images."""
    many, extractor = randu(50), RandomConvFeatures(4)
    everything = FeatureCollector(extractor, "synthetic")
    everything.add(many)
    complete = everything.gather()
    for order, batch in ((torch.arange(50), 3), (torch.arange(50).flip(0), 20)):
        collector = FeatureCollector(extractor, "synthetic", max_features=7)
        for part in many[order].split(batch):
            collector.add(part)
            assert sum(map(len, collector._features)) <= 2 * 7 + 20
        bounded = collector.gather()
        assert len(bounded) == 7 and bounded.n == complete.n == len(complete) == 50
        assert torch.equal(bounded.keys, complete.keys[:7])
        torch.testing.assert_close(bounded.features, complete.features[:7])
        torch.testing.assert_close(bounded.moments.cov, complete.moments.cov)
        assert bounded.subset(50, 0) is bounded and bounded.subset(40, 0).n == 7 and bounded.subset(5, 0).n == 5
    with pytest.raises(ValueError, match="max_features must be None or at least 2, got 1"):
        FeatureCollector(extractor, "synthetic", max_features=1)


def test_kept_images_do_not_depend_on_the_order():
    many, results = randu(30), []
    for order in (torch.arange(30), torch.arange(30).flip(0)):
        collector = FeatureCollector(RandomConvFeatures(4), "synthetic", keep=6)
        for part in many[order].split(4):
            collector.add(part, with_features=False)
        assert len(collector._kept[1]) == 6
        results.append(collector.gather_images())
    assert torch.equal(*results) and collector.gather().n == 0


def test_moments_of_a_part_are_saved_with_it(tmp_path):
    moments = FeatureSet(torch.rand(9, 3), torch.arange(9)).moments
    part = FeatureSet(torch.rand(2, 3), torch.arange(2), moments)
    part.save(tmp_path / "part.npz")
    loaded = FeatureSet.load(tmp_path / "part.npz")
    assert (len(loaded), loaded.n) == (2, 9)
    assert torch.equal(loaded.moments.outer, moments.outer) and torch.equal(loaded.moments.mean, moments.mean)
