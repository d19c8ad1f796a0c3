"""Images that were generated and saved before, to be scored without generating them again."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from ..utils.errors import DataError
from .manifest import iterate_manifest
from .synthetic_files import synthetic_extension

__all__ = ["SyntheticFolderDataset"]

# What may differ between images that are scored together. A class is part of what is asked for, like a seed.
_OF_ONE_IMAGE = ("seed", "file", "sha256", "date", "class_label", "version")


class SyntheticFolderDataset(Dataset):
    """
    The images that `SyntheticImageSaver` wrote into one folder or into several, in the order of their seeds.

    One item an image: ``{"image": (1, H, W) float32, "seed": its seed, "image_path": its file}``. Files are read when
    they are taken, and each is compared with the SHA-256 of its manifest, so that nothing but what was generated is
    scored. Of the manifests only names and hashes are kept.

    Args:
        folders: folder with a ``manifest.jsonl``, or folder whose sub-folders have one, as those of the jobs of an
            array; or several of these.
        num_samples: number of seeds from ``first_seed`` on, each of which has to be there; default: all there are.
        first_seed: the lowest seed taken.
        value_range: values that black and white of PNG files stand for.

    Attributes:
        seeds: the seeds, sorted.
        settings: what the manifests say of all images: model, SHA-256 of the weights, sampler, steps and so on.

    Raises:
        ValueError: when num_samples is below 1.
        DataError: when a folder has no manifest, seeds are missing, one seed has two different files, images are of
            different weights or settings; or, when an item is taken, its file is missing, damaged or no image.

    Example:
        >>> import tempfile
        >>> from monai_mamba_gen.data import append_manifest, manifest_path, write_synthetic_image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     digest = write_synthetic_image(f"{folder}/7.png", torch.ones(8, 8), None, {"seed": 7})
        ...     append_manifest(manifest_path(folder), [{"seed": 7, "file": "7.png", "sha256": digest}])
        ...     item = SyntheticFolderDataset(folder)[0]
        >>> item["seed"], item["image"].shape, float(item["image"].mean())
        (7, torch.Size([1, 8, 8]), 1.0)
    """

    def __init__(
        self,
        folders: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        num_samples: int | None = None,
        first_seed: int = 0,
        value_range: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        if num_samples is not None and num_samples < 1:
            raise ValueError(f"num_samples must be None or at least 1, got {num_samples}")
        given = [folders] if isinstance(folders, (str, os.PathLike)) else list(folders)
        self.folders = [folder for each in given for folder in _with_manifest(Path(each))]
        self.value_range = (float(value_range[0]), float(value_range[1]))
        self.settings: dict[str, Any] = {}
        found: dict[int, tuple[int, str, str]] = {}
        for number, folder in enumerate(self.folders):
            for seed, (file, digest) in self._read(folder).items():
                if seed in found and found[seed][2] != digest:
                    raise DataError(f"seed {seed}: {folder / file} and {self._path(found[seed])} are two images")
                found.setdefault(seed, (number, file, digest))
        last = None if num_samples is None else first_seed + num_samples
        self.seeds = sorted(seed for seed in found if seed >= first_seed and (last is None or seed < last))
        if not self.seeds or (num_samples is not None and len(self.seeds) < num_samples):
            wanted = "any" if num_samples is None else f"{num_samples}"
            missing = next(seed for seed in range(first_seed, first_seed + len(self.seeds) + 1) if seed not in found)
            raise DataError(
                f"{', '.join(map(str, given))}: {len(self.seeds)} images of the seeds from {first_seed} on, {wanted} "
                f"wanted; the first missing seed is {missing}"
            )
        self._files = [found[seed] for seed in self.seeds]

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, index: int) -> dict[str, Any]:
        position = range(len(self))[index]
        path, digest = self._path(self._files[position]), self._files[position][2]
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: listed in the manifest, cannot be read ({error.strerror})") from None
        if hashlib.sha256(content).hexdigest() != digest:
            raise DataError(f"{path}: is not the file that was generated (SHA-256 differs from the manifest)")
        try:
            array = _decode(content, synthetic_extension(path), self.value_range)
        except Exception as error:
            raise DataError(f"{path}: no image that can be read ({type(error).__name__}: {error})") from None
        if array.ndim != 2:
            raise DataError(f"{path}: one channel of 2D is needed to be scored, got shape {array.shape}")
        image = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None]
        return {"image": image, "seed": self.seeds[position], "image_path": str(path)}

    def _path(self, entry: tuple[int, str, str]) -> Path:
        return self.folders[entry[0]] / entry[1]

    def _read(self, folder: Path) -> dict[int, tuple[str, str]]:
        """Return file and SHA-256 of each seed in a manifest, whose settings have to be those of the ones before."""
        files, last = {}, ""
        for seed, record in iterate_manifest(folder):
            if not isinstance(seed, int):
                raise DataError(f"{folder}: holds {record['file']}, images of seeds are needed")
            settings = {key: value for key, value in record.items() if key not in _OF_ONE_IMAGE and value is not None}
            text = json.dumps(settings, sort_keys=True)
            if text != last and self.settings not in ({}, settings):
                keys = sorted({*settings, *self.settings})
                key = next(key for key in keys if settings.get(key) != self.settings.get(key))
                raise DataError(
                    f"{folder / record['file']}: made with {key} {settings.get(key)!r}, others with "
                    f"{self.settings.get(key)!r}; score them apart"
                )
            self.settings, last = settings, text
            files[seed] = (record["file"], record["sha256"])
        return files


def _with_manifest(folder: Path) -> list[Path]:
    """Return the folder, or its sub-folders, with a manifest."""
    for candidates in ([folder], sorted(path for path in folder.glob("*") if path.is_dir())):
        chosen = [path for path in candidates if any(path.glob("manifest*.jsonl"))]
        if chosen:
            return chosen
    raise DataError(f"{folder}: neither the folder nor one right below it has a manifest.jsonl of generated images")


def _decode(content: bytes, extension: str, value_range: tuple[float, float]) -> np.ndarray:
    """Return the array that `write_synthetic_image` was given."""
    if extension == ".png":
        with Image.open(io.BytesIO(content)) as picture:
            pixels = np.asarray(picture)
        low, high = value_range
        return low + (high - low) * pixels.T.astype(np.float64) / np.iinfo(pixels.dtype).max
    raw = gzip.decompress(content) if extension == ".nii.gz" else content
    array = np.asarray(nib.Nifti1Image.from_bytes(raw).dataobj, dtype=np.float32)
    while array.ndim > 2 and array.shape[-1] == 1:
        array = array[..., 0]
    return array
