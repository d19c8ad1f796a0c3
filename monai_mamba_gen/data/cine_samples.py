"""What is to be generated: patients, and the seeds for each of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from monai_mamba_gen.transforms.load_cine import read_timing
from monai_mamba_gen.utils.errors import DataError

from .acdc_cine import acdc_cine_datalist
from .cine_dataset import CineDataset
from .cine_files import unfinished_cines

__all__ = ["CineSamples", "cine_inputs"]

_MODES = ("auto", "interpolation", "generation")
_SUFFIXES = (".nii.gz", ".nii")


def cine_inputs(
    dataset_dir: str | os.PathLike[str] = "",
    split: str = "all",
    image: str | os.PathLike[str] = "",
    target: str | os.PathLike[str] = "",
    val_fraction: float = 0.1,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """
    List the patients of a data set, or the one of a single file.

    Args:
        dataset_dir: folder in ACDC's layout, see `acdc_cine_datalist`.
        split: "training", "validation" or "all" of it.
        image: file of an ED volume, or of a whole cine (4D), instead of a data set.
        target: file of the ES volume that belongs to ``image``.
        val_fraction: see `acdc_cine_datalist`.
        seed: likewise.

    Raises:
        DataError: when neither or both of dataset_dir and image are given, or the data set is not readable.

    Example:
        >>> cine_inputs(image="scans/p1_ed.nii.gz", target="scans/p1_es.nii.gz")[0]["patient"]
        'p1_ed'
    """
    if not os.fspath(image):
        if os.fspath(target):
            raise DataError(f"target {target} is given without image: name the ED volume, --image <file>")
        if not os.fspath(dataset_dir):
            raise DataError("neither dataset_dir nor image is given: --dataset_dir <folder> or --image <file>")
        return acdc_cine_datalist(dataset_dir, split, val_fraction, seed)
    if os.fspath(dataset_dir):
        raise DataError(f"both dataset_dir {dataset_dir} and image {image} are given: name one of them")
    name = Path(image).name
    suffix = next((each for each in _SUFFIXES if name.endswith(each)), Path(image).suffix)
    item = {"image": os.fspath(image), "patient": name.removesuffix(suffix)}
    return [item | {"target": os.fspath(target)}] if os.fspath(target) else [item]


def _has_target(item: Mapping[str, Any]) -> bool:
    """Whether there is an ES volume: a file of its own, or a frame of a whole cine."""
    if item.get("target"):
        return True
    try:
        return read_timing(item["image"])[0] > 1
    except DataError:
        return False  # the reader names what is wrong with the file when it comes to it


class CineSamples(Dataset):
    """
    One item for each cine to make: a patient, or a patient and a seed.

    A patient whose ES volume is looked at gives one item, without a seed; one whose beat is generated gives
    ``num_samples`` items with the seeds ``first_seed, first_seed + 1, ...``. Patients are read when they are taken, and
    the last one is kept for its next seed.

    Args:
        data: one dict per patient, see `cine_inputs`.
        preprocessing: as of `CineDataset`.
        mode: as of `CineInferer`: ``"auto"`` generates where there is no ES volume.
        num_samples: beats for each patient whose beat is generated.
        first_seed: seed of the first of them.
        output_dir: folder of a run to continue, whose finished cines are left out; default: nothing is left out.

    Raises:
        ValueError: when mode or num_samples is none of these.
        DataError: when an item is taken whose files are missing or wrong.

    Items are those of `CineDataset` with ``keep_meta``, ``seed`` for generation, and ``series`` (path) where there is
    one.

    Example:
        >>> def load(item):
        ...     return {"image": torch.rand(1, 8, 8, 4)}
        >>> samples = CineSamples([{"image": "a.nii.gz", "patient": "a"}], load, "generation", num_samples=2)
        >>> [item["seed"] for item in samples.data]
        [0, 1]
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        preprocessing: Callable[[dict[str, Any]], Any],
        mode: str = "auto",
        num_samples: int = 1,
        first_seed: int = 0,
        output_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        if mode not in _MODES:
            raise ValueError(f"mode must be one of {_MODES}, got {mode!r}")
        if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 1:
            raise ValueError(f"num_samples must be an integer above 0, got {num_samples!r}")
        self.preprocessing = preprocessing
        self.data: list[dict[str, Any]] = []
        for item in data:
            generated = mode == "generation" or (mode == "auto" and not _has_target(item))
            seeds = range(first_seed, first_seed + num_samples) if generated else [None]
            self.data += [dict(item) if seed is None else {**item, "seed": seed} for seed in seeds]
        if output_dir is not None:
            self.data = unfinished_cines(self.data, output_dir)
        self._last: tuple[Any, dict[str, Any]] = (None, {})

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        position = range(len(self))[index]
        patient = {key: value for key, value in self.data[position].items() if key != "seed"}
        if self._last[0] != patient:
            self._last = (patient, CineDataset([patient], self.preprocessing, keep_meta=True, progress=False)[0])
        given = {
            key: self.data[position][key] for key in ("series", "seed") if self.data[position].get(key) is not None
        }
        return {**self._last[1], **given, "index": position}
