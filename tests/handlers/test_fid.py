import json
import logging

import pytest
import torch
from ignite.engine import Engine
from monai.engines import SupervisedEvaluator
from monai.inferers import SimpleInferer
from PIL import Image
from torch import nn

from monai_mamba_gen.handlers import FIDHandler
from monai_mamba_gen.metrics import FeatureSet, ModuleFeatures, RandomConvFeatures, frechet_distance
from monai_mamba_gen.utils.errors import DataError


def randu(n, seed=0, size=16):
    return torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def items(images):
    return [{"image": image} for image in images]


class CountingFeatures(RandomConvFeatures):
    """Counts the images whose features are taken."""

    count = 0

    def extract(self, images):
        self.count += len(images)
        return super().extract(images)


def run(handler, batches, decollated=False):
    def step(engine, batch):
        return [{"pred": image} for image in batch] if decollated else {"pred": batch}

    engine = Engine(step)
    handler.attach(engine)
    return engine.run(batches).metrics


def report_in(folder):
    return json.loads((folder / "report.json").read_text())


def test_report_picture_metrics_and_log(tmp_path, caplog):
    extractor = RandomConvFeatures(4)
    handler = FIDHandler(extractor, items(randu(20)), tmp_path, items(randu(30, 1)), num_pictures=4, kid_subsets=5)
    with caplog.at_level(logging.INFO, logger="monai_mamba_gen.handlers.fid"):
        metrics = run(handler, [randu(8, 2) / 2, randu(5, 3) / 2])
    report = report_in(tmp_path)
    assert (report["n_real"], report["n_fake"], report["n_floor"]) == (20, 13, 13)
    assert report["floor"]["n_against"] == 20
    assert metrics["frechet_distance"] == pytest.approx(report["synthetic_vs_real"]["frechet_distance"])
    assert metrics["kernel_distance_floor"] == pytest.approx(report["floor"]["kernel_distance"]["mean"])
    assert metrics["frechet_distance"] > metrics["frechet_distance_floor"]
    assert metrics["ms_ssim_synthetic"] > metrics["ms_ssim_real"]
    assert any("n_real = 20 and n_fake = 13 differ" in warning for warning in report["warnings"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["real_vs_synthetic.png", "report.json"]
    picture = Image.open(tmp_path / "real_vs_synthetic.png")
    assert picture.height == 2 * (16 + 2 * 16 + 2)  # two labels of 16 pixels, two rows each, one gap of 2 between them
    (line,) = [message for message in caplog.messages if "Frechet distance" in message and "floor" in message]
    assert "n_fake = 13, n_real = 20, n_floor = 13" in line and extractor.name in line and "FID" not in line
    assert any("differ" in message for message in caplog.messages)


def test_distance_is_that_of_the_features(tmp_path):
    """End to end against the same figure by hand, on images that 8 bits hold exactly."""
    real, fake = ((randu(n, seed) * 127.5 + 127.5).round() / 127.5 - 1 for n, seed in ((12, 0), (9, 1)))
    extractor = RandomConvFeatures(4)
    metrics = run(FIDHandler(extractor, items(real), tmp_path), [fake])
    moments = [FeatureSet(extractor(images), torch.arange(len(images))).moments for images in (real, fake)]
    assert metrics["frechet_distance"] == pytest.approx(frechet_distance(*moments), rel=1e-4)


def test_batches_order_and_decollation_do_not_matter(tmp_path):
    fake = randu(10, 1)
    handler = FIDHandler(RandomConvFeatures(4), items(randu(12)), tmp_path)
    together = run(handler, [fake])
    apart = run(handler, list(fake.flip(0).split(3)), decollated=True)
    assert together == pytest.approx(apart, rel=1e-4)


def test_with_monai_evaluator(tmp_path):
    evaluator = SupervisedEvaluator(
        device="cpu",
        val_data_loader=[{"image": randu(3, 1), "label": randu(3, 1)}, {"image": randu(2, 2), "label": randu(2, 2)}],
        network=nn.Identity(),
        inferer=SimpleInferer(),
        val_handlers=[FIDHandler(RandomConvFeatures(4), items(randu(6)), tmp_path)],
    )
    evaluator.run()
    assert report_in(tmp_path)["n_fake"] == 5
    assert evaluator.state.metrics["frechet_distance"] > 0


def test_cache_serves_the_same_and_never_stale(tmp_path):
    images, fake, cache = randu(12), [randu(10, 1)], tmp_path / "cache"
    first, again, changed, other = CountingFeatures(4), CountingFeatures(4), CountingFeatures(4), CountingFeatures(5)
    before = run(FIDHandler(first, items(images), tmp_path, cache_dir=cache), fake)
    after = run(FIDHandler(again, items(images.flip(0)), tmp_path, cache_dir=cache), fake)
    assert (first.count, again.count) == (22, 10)
    assert before == after
    assert len(list(cache.iterdir())) == 1
    edited = images.clone()
    edited[0, 0, 0, 0] *= -1
    run(FIDHandler(changed, items(edited), tmp_path, cache_dir=cache), fake)
    run(FIDHandler(other, items(images), tmp_path, cache_dir=cache), fake)
    assert (changed.count, other.count) == (22, 22)
    files = sorted(cache.iterdir())
    assert len(files) == 3
    for file in files:
        file.write_bytes(b"damaged")
    repaired = CountingFeatures(4)
    assert run(FIDHandler(repaired, items(images), tmp_path, cache_dir=cache), fake) == before
    assert repaired.count == 22


def test_cache_in_memory_sees_changed_data(tmp_path):
    images, extractor = randu(12), CountingFeatures(4)
    handler = FIDHandler(extractor, items(images), tmp_path)
    for expected in (22, 32):
        run(handler, [randu(10, 1)])
        assert extractor.count == expected
    images[0] *= -1
    run(handler, [randu(10, 1)])
    assert extractor.count == 54


def test_faults_name_the_set_and_real_ones_come_first(tmp_path):
    def never(engine, batch):
        raise RuntimeError("generated before the real images were checked")

    extractor = RandomConvFeatures(4)
    engine = Engine(never)
    FIDHandler(extractor, items(randu(1)), tmp_path).attach(engine)
    with pytest.raises(DataError, match="real images: 1 found, at least 2 needed"):
        engine.run([0])
    with pytest.raises(DataError, match="reference images, item 0"):
        run(FIDHandler(extractor, items(randu(4)), tmp_path, [{"image": torch.zeros(2, 8, 8)}] * 2), [randu(4)])
    with pytest.raises(DataError, match="synthetic images: 1 generated, at least 2 needed"):
        run(FIDHandler(extractor, items(randu(4)), tmp_path), [randu(1)])
    with pytest.raises(DataError, match="synthetic images hold NaN"):
        run(FIDHandler(extractor, items(randu(4)), tmp_path), [randu(4) / 0])
    with pytest.raises(DataError, match="synthetic images must have one size"):
        run(FIDHandler(extractor, items(randu(4)), tmp_path), [[randu(1)[0], randu(1, size=8)[0]]], decollated=True)
    broken = ModuleFeatures(nn.Sequential(nn.Flatten(), nn.Linear(256, 2)), "broken", "none", dim=2)
    broken.module[1].weight.data.fill_(float("nan"))
    with pytest.raises(DataError, match="features of the real images hold NaN"):
        run(FIDHandler(broken, items(randu(4)), tmp_path), [randu(4)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch_size", 0), ("kid_degree", 0), ("kid_subsets", 0), ("ms_ssim_pairs", 0), ("num_pictures", 0)]
    + [("kid_subset_size", 1), ("max_features", 1)],
)
def test_bad_arguments(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name} must be .*got {value}"):
        FIDHandler(RandomConvFeatures(4), items(randu(4)), tmp_path, **{name: value})


def test_many_images_need_few_features(tmp_path):
    """The Frechet distance is of all images, the kernel distance of some, and the report says so."""
    real, fake, extractor = items(randu(40)), [randu(8, seed) / 2 for seed in range(1, 6)], RandomConvFeatures(4)
    metrics = run(FIDHandler(extractor, real, tmp_path / "all", real), fake)
    options = {"max_features": 12, "cache_dir": tmp_path / "cache", "batch_size": 7}
    few = run(FIDHandler(extractor, real, tmp_path, real, **options), fake)
    assert few["frechet_distance"] == pytest.approx(metrics["frechet_distance"], rel=1e-6)
    assert few["kernel_distance"] != metrics["kernel_distance"]
    assert few["kernel_distance"] == pytest.approx(metrics["kernel_distance"], rel=0.5)
    report = report_in(tmp_path)
    assert (report["n_real"], report["n_fake"], report["n_floor"]) == (40, 40, 40)
    assert report["n_features"] == {"real": 12, "fake": 12}
    assert report["floor"]["frechet_distance"] == pytest.approx(0, abs=1e-9)  # the reference is the real set, all of it
    assert sum("draws from 12 of 40" in warning for warning in report["warnings"]) == 3
    assert run(FIDHandler(extractor, real, tmp_path, real, **options), fake) == few  # from the cache
    fewer = run(FIDHandler(extractor, real, tmp_path, real, **options), fake[:4])
    assert fewer["frechet_distance"] > 0 and report_in(tmp_path)["n_floor"] == 12
    assert any(
        "n = 12, not at n_fake = 32: there are too few real features kept" in w for w in report_in(tmp_path)["warnings"]
    )
