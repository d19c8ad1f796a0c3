"""Scores the images an evaluation engine generates against real ones."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.handlers import from_engine

from ..metrics.collector import FeatureCollector
from ..metrics.feature_set import FeatureSet
from ..metrics.features import FeatureExtractor
from ..metrics.images import content_hash, image_batches
from ..metrics.report import build_report
from ..utils.atomic_write import atomic_write
from ..utils.distributed import gather_rows, is_main_process
from ..utils.errors import DataError
from ..utils.image_grid import image_grid, labelled_rows, save_png
from .tracking import track_report

__all__ = ["FIDHandler", "summary_line"]

logger = logging.getLogger(__name__)

_METRICS = (
    "frechet_distance",
    "kernel_distance",
    "frechet_distance_floor",
    "kernel_distance_floor",
    "ms_ssim_synthetic",
    "ms_ssim_real",
)


class FIDHandler:
    """
    Compare the generated images of an evaluation run with real ones: Frechet distance, kernel distance, diversity.

    Writes ``report.json`` and ``real_vs_synthetic.png``, puts the numbers into ``engine.state.metrics`` and logs one
    line. Each figure stands beside its floor: the same distance between two sets of real images. The Frechet distance
    is called FID only when the extractor is Inception-v3 with the published weights.

    Works in any number of processes: each scores what it generated, real images are shared out, and the result does
    not depend on their number (to rounding). No image may be generated twice: a sampler that pads the last batch, as
    ``DistributedSampler`` does by default, adds copies.

    Memory does not grow with the number of images: batches are taken as they come, the Frechet distance needs sums
    alone, which are added up over processes, and of features and images a bounded number is kept.

    Args:
        extractor: network that gives the features.
        real_dataset: held-out real images: a sequence whose items hold ``"image"`` as (1, H, W) in [-1, 1], or an
            object with ``image(index)`` or ``images()``, see `image_batches`. They are read twice where their features
            are not in the cache.
        output_dir: folder of the report and the picture.
        reference_dataset: other real images, normally the training ones, for the floor. Default: the floor is taken
            between two halves of the held-out ones.
        batch_size: images given to the extractor at once.
        cache_dir: features of real images are kept here as ``.npz``, under the hash of extractor and pixels.
            Default: kept in memory only.
        kid_degree: degree of the kernel.
        kid_subsets: subsets of the kernel distance.
        kid_subset_size: images of each set in a subset; default: half of the smaller set, at most 1000.
        ms_ssim_pairs: pairs of images for the diversity.
        num_pictures: images of each set in the picture.
        seed: names every random choice.
        max_features: feature vectors of each set that are kept for the kernel distance, and for a floor at fewer images
            than the reference has; of larger sets those with the smallest hashes of pixels.
        output_transform: takes ``engine.state.output``, returns synthetic images in [-1, 1]: (N, 1, H, W), (1, H, W)
            or a list of these. Default: the key ``"pred"``.

    Raises:
        ValueError: when a number is below 1.
        DataError: during the run, when a set has fewer than 2 images or holds something other than finite
            one-channel images of one size, or features are not finite; the message names the set.

    Example:
        >>> import tempfile
        >>> from monai_mamba_gen.metrics import RandomConvFeatures
        >>> real = [{"image": image} for image in torch.rand(8, 1, 16, 16) * 2 - 1]
        >>> handler = FIDHandler(RandomConvFeatures(4), real, tempfile.mkdtemp())
        >>> evaluator = Engine(lambda engine, batch: {"pred": torch.rand(4, 1, 16, 16)})
        >>> handler.attach(evaluator)
        >>> state = evaluator.run([0, 1])
        >>> json.loads((handler.output_dir / "report.json").read_text())["n_fake"]
        8
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        real_dataset: Sequence[Any] | Any,
        output_dir: str | os.PathLike[str],
        reference_dataset: Sequence[Any] | Any | None = None,
        batch_size: int = 32,
        cache_dir: str | os.PathLike[str] | None = None,
        kid_degree: int = 3,
        kid_subsets: int = 100,
        kid_subset_size: int | None = None,
        ms_ssim_pairs: int = 200,
        num_pictures: int = 16,
        seed: int = 0,
        output_transform: Callable[[Any], Any] | None = None,
        max_features: int = 10000,
    ) -> None:
        numbers = {
            "batch_size": batch_size,
            "kid_degree": kid_degree,
            "kid_subsets": kid_subsets,
            "ms_ssim_pairs": ms_ssim_pairs,
            "num_pictures": num_pictures,
        }
        for name, value in numbers.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if kid_subset_size is not None and kid_subset_size < 2:
            raise ValueError(f"kid_subset_size must be None or at least 2, got {kid_subset_size}")
        if max_features < 2:
            raise ValueError(f"max_features must be at least 2, got {max_features}")
        self.extractor = extractor
        self.real_dataset, self.reference_dataset = real_dataset, reference_dataset
        self.output_dir = Path(output_dir)
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self.batch_size, self.num_pictures, self.seed = batch_size, num_pictures, seed
        self.ms_ssim_pairs, self.max_features = ms_ssim_pairs, max_features
        self.kernel_arguments = {"degree": kid_degree, "subsets": kid_subsets, "subset_size": kid_subset_size}
        self.output_transform = output_transform or from_engine("pred")
        self.device = torch.device("cpu")
        self._memory: dict[str, FeatureSet] = {}

    def attach(self, engine: Engine) -> None:
        """Score the images that ``engine`` generates."""
        engine.add_event_handler(Events.STARTED, self.prepare)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def prepare(self, engine: Engine) -> None:
        """Take the features of the real images, so that a fault in them shows before anything is generated."""
        self.device = torch.device(getattr(engine.state, "device", None) or "cpu")
        self.extractor.to(self.device)
        self._real, self._real_images = self._real_features(self.real_dataset, "real")
        self._reference = None
        if self.reference_dataset is not None:
            self._reference, _ = self._real_features(self.reference_dataset, "reference")
        self._collector = self._new_collector("synthetic")

    def collect(self, engine: Engine) -> None:
        """Take the features of one iteration's images."""
        output = self.output_transform(engine.state.output)
        items = output if isinstance(output, (list, tuple)) else [output]
        images = [torch.as_tensor(item.as_tensor() if hasattr(item, "as_tensor") else item) for item in items]
        images = [image if image.ndim == 4 else image[None] for image in images]
        shapes = {tuple(image.shape[1:]) for image in images}
        if len(shapes) > 1:
            raise DataError(f"synthetic images must have one size, got {sorted(shapes)}")
        if images:
            self._collector.add(torch.cat(images))

    def finish(self, engine: Engine) -> None:
        """Compare, report, and put the numbers into ``engine.state.metrics`` of every process."""
        fake = self._collector.gather()
        if fake.n < 2:
            raise DataError(f"synthetic images: {fake.n} generated, at least 2 needed")
        fake_images = self._collector.gather_images()
        values = torch.full((len(_METRICS),), math.nan, dtype=torch.float64)
        if is_main_process():
            report = build_report(
                self.extractor,
                self._real,
                fake,
                self._real_images,
                fake_images,
                self._reference,
                self.ms_ssim_pairs,
                self.seed,
                **self.kernel_arguments,
            )
            self._write(report, fake_images)
            values = torch.tensor(_metric_values(report), dtype=torch.float64)
        values = idist.broadcast(values, src=0)
        engine.state.metrics.update(zip(_METRICS, values.tolist(), strict=True))
        track_report(engine, [self.output_dir / "real_vs_synthetic.png"])

    def _new_collector(self, name: str) -> FeatureCollector:
        keep = max(self.num_pictures, 2 * self.ms_ssim_pairs)
        return FeatureCollector(self.extractor, name, keep, self.batch_size, self.device, self.max_features)

    def _real_features(self, dataset: Any, name: str) -> tuple[FeatureSet | None, torch.Tensor]:
        """Return features (on rank 0) and some images of a real set; only pixels never seen before are computed."""
        collector = self._new_collector(name)
        batches = image_batches(dataset, name, self.batch_size)
        keys = [collector.add(batch, with_features=False) for batch in batches]
        keys = gather_rows(torch.cat([*keys, torch.zeros(0, dtype=torch.int64)]))
        if len(keys) < 2:
            raise DataError(f"{name} images: {len(keys)} found, at least 2 needed")
        content = content_hash(keys)
        parts = [self.extractor.fingerprint(), content] + ([self.max_features] if len(keys) > self.max_features else [])
        cache_key = hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:24]
        path = None if self.cache_dir is None else self.cache_dir / f"features_{cache_key}.npz"
        # Only rank 0 looks, so that all ranks agree on whether there is anything to compute.
        cached = self._look_up(cache_key, path) if is_main_process() else None
        hit = bool(idist.broadcast(torch.tensor([float(cached is not None)]), src=0).item())
        if not hit:
            for batch in image_batches(dataset, name, self.batch_size):
                collector.add(batch, with_images=False)
            cached = collector.gather()
            if path is not None and is_main_process():
                description = {"extractor": self.extractor.name, "preprocessing": self.extractor.preprocessing}
                cached.save(path, **description, content_hash=content, n=cached.n)
        if is_main_process() and cached is not None:
            self._memory[cache_key] = cached
        logger.info("%s images: %d, features %s", name, len(keys), "from the cache" if hit else "computed")
        return cached, collector.gather_images()

    def _look_up(self, cache_key: str, path: Path | None) -> FeatureSet | None:
        """Return cached features, or None; a damaged file counts as none."""
        if cache_key in self._memory or path is None or not path.is_file():
            return self._memory.get(cache_key)
        try:
            return FeatureSet.load(path)
        except DataError as error:
            logger.warning("%s; computing the features again", error)
            return None

    def _write(self, report: dict[str, Any], fake_images: torch.Tensor) -> None:
        """Write report and picture, each atomically, and log the report in one line."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.output_dir / "report.json") as temporary:
            temporary.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        real, fake = self._real_images[: self.num_pictures], fake_images[: self.num_pictures]
        columns = math.ceil(math.sqrt(2 * self.num_pictures))
        rows = [
            (f"real ({len(real)} of {report['n_real']})", image_grid(real, columns)),
            (f"synthetic ({len(fake)} of {report['n_fake']})", image_grid(fake, columns)),
        ]
        save_png(self.output_dir / "real_vs_synthetic.png", labelled_rows(rows), {"Synthetic": "the rows named so"})
        logger.info(summary_line(report))
        for warning in report["warnings"]:
            logger.warning(warning)


def _metric_values(report: dict[str, Any]) -> list[float]:
    """Return the numbers named by `_METRICS`, NaN for one that does not exist."""
    score, floor, ms_ssim = report["synthetic_vs_real"], report["floor"], report["ms_ssim"]
    values = [
        score["frechet_distance"],
        score["kernel_distance"]["mean"],
        floor["frechet_distance"],
        (floor["kernel_distance"] or {}).get("mean"),
        ms_ssim["synthetic"]["mean"],
        ms_ssim["real"]["mean"],
    ]
    return [math.nan if value is None else value for value in values]


def summary_line(report: dict[str, Any]) -> str:
    """Return a report of `build_report` as one line of text, always with n and the extractor's name."""
    frechet, kernel, frechet_floor, kernel_floor, fake_ssim, real_ssim = _metric_values(report)
    return (
        f"{report['distance_label']} {frechet:.4g} (floor {frechet_floor:.4g}), "
        f"kernel distance x 1000 {1000 * kernel:.4g} (floor {1000 * kernel_floor:.4g}), "
        f"MS-SSIM {fake_ssim:.3f} (real {real_ssim:.3f}); "
        f"n_fake = {report['n_fake']}, n_real = {report['n_real']}, n_floor = {report['n_floor']}; "
        f"features: {report['extractor']}"
    )
