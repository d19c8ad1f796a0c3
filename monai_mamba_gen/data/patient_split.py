"""Splitting a data set by patient."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from monai_mamba_gen.utils.errors import DataError
from monai_mamba_gen.utils.seeding import derive_seed

__all__ = ["SPLITS", "check_split", "split_patients"]

SPLITS = ("training", "validation", "all")


def check_split(split: str, val_fraction: float, splits: Sequence[str] = SPLITS) -> None:
    """Refuse a split that is none of ``splits`` and a share that is none."""
    if split not in splits:
        raise DataError(f"split must be one of {tuple(splits)}, got {split!r}")
    if not 0 < val_fraction < 1:
        raise DataError(f"val_fraction must be above 0 and below 1, got {val_fraction!r}")


def split_patients(
    folders: list[Path], split: str, val_fraction: float, seed: int, name: str = "acdc_split"
) -> list[Path]:
    """
    Return the patients of one split, sorted by name.

    A patient's place follows from its name and the seed alone, so new patients hardly move the others.

    Args:
        folders: one folder per patient, named after it, sorted.
        split: "training", "validation" or "all".
        val_fraction: share in the validation split; at least one patient, and at least one is left for training.
        seed: seed of the split.
        name: names the split's random numbers, one name per data set.

    Raises:
        DataError: when there is only one patient to split.

    Example:
        >>> [path.name for path in split_patients([Path("a"), Path("b"), Path("c")], "validation", 0.1, seed=0)]
        ['a']
    """
    if split == "all":
        return folders
    if len(folders) < 2:
        raise DataError(f"dataset_dir {folders[0].parent}: only one patient, split={split!r} needs at least two")
    held_out = min(max(1, round(val_fraction * len(folders))), len(folders) - 1)
    order = sorted(folders, key=lambda folder: (derive_seed(seed, name, folder.name), folder.name))
    chosen = order[:held_out] if split == "validation" else order[held_out:]
    return sorted(chosen, key=lambda folder: folder.name)
