"""Writes what an evaluator generates: one marked file for each seed, a manifest and a picture of the first images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from PIL import Image
from torch import nn

from .. import __version__
from ..data import synthetic_extension, write_synthetic_image
from ..utils import SYNTHETIC_MARKS, image_grid, save_png
from .synthetic_folder import SyntheticFolderSaver, batch_items

__all__ = ["SyntheticImageSaver"]


def _spatial_array(image: torch.Tensor) -> torch.Tensor:
    """Drop one channel of (C, H, W[, D]); put more of them last, as NIfTI keeps time, in the fourth dimension."""
    if image.shape[0] == 1:
        return image[0]
    moved = image.movedim(0, -1)
    return moved if moved.ndim == 4 else moved.unsqueeze(2)


class SyntheticImageSaver(SyntheticFolderSaver):
    """
    Save each generated image as ``seed_000012.nii.gz`` and list it in ``manifest.jsonl``; at the end draw ``grid.png``.

    To be attached to a MONAI evaluator whose batches have a ``seed`` (see `SeedDataset`) and whose outputs have a
    ``pred`` (C, H, W[, D]); a MetaTensor's affine goes into NIfTI files. A run that was killed continues where
    `SeedBatchSampler` reads the same folder. Lines are on disk only after their files, and each process has a part of
    the manifest of its own; rank 0 merges them at the end, sorted by seed. The date is in the manifest, not in the
    files, whose bytes depend on weights, seed and settings alone.

    An evaluator that has nothing left to do does not run at all. Name `finish` after the evaluator in a configuration,
    ``"run": ["$@evaluator.run()", "$@saver.finish()"]``: it completes manifest and grid then too, and where one of
    several processes was left without work.

    Args:
        output_dir: folder of the images; made where it is missing.
        output_ext: ``.nii.gz`` or ``.nii``: values as they are, float32; ``.png``: 8 bits.
        model_name: name of the model, for the marks.
        weights_path: weights file whose SHA-256 goes into the marks; default: `state_dict_sha256` of the network.
        network: network to take that from; default the evaluator's.
        sampler: the `SamplingInferer` that made the images, for its name, steps and guidance in the marks; default the
            evaluator's inferer.
        value_range: values shown as black and white in PNG files and in the grid.
        grid: whether to draw ``grid.png``.
        grid_size: number of images in it, those of the lowest seeds; of volumes the middle slice.
        dtype: stored type, see `write_synthetic_image`.
        settings: further JSON-like settings for the marks, such as the size of the images; images of other settings are
            refused in the same folder.

    Raises:
        DataError: when the weights file is missing, or the folder holds images of other weights or settings.

    Example:
        >>> saver = SyntheticImageSaver("synthetic", output_ext=".png", model_name="vm_ddpm")
        >>> saver.attach(evaluator)  # doctest: +SKIP
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        output_ext: str = ".nii.gz",
        model_name: str = "unnamed",
        weights_path: str | os.PathLike[str] | None = None,
        network: nn.Module | None = None,
        sampler: Any = None,
        value_range: tuple[float, float] = (-1.0, 1.0),
        grid: bool = True,
        grid_size: int = 36,
        dtype: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if grid_size < 1:
            raise ValueError(f"grid_size must be at least 1, got {grid_size}")
        if synthetic_extension(output_ext) != output_ext:
            raise ValueError(f"output_ext must be .nii, .nii.gz or .png, got {output_ext!r}")
        super().__init__(output_dir, model_name, weights_path, network, sampler, settings)
        self.output_ext = output_ext
        self.value_range = (float(value_range[0]), float(value_range[1]))
        self.grid_size = grid_size if grid else 0
        self.dtype = dtype

    def save(self, engine: Engine) -> None:
        """Write the images of the engine's current batch and list them."""
        settings = self._begin(engine)
        records = []
        for sample, output in zip(batch_items(engine.state.batch), batch_items(engine.state.output), strict=True):
            seed, image = int(sample["seed"]), output["pred"]
            provenance = {"package": "monai_mamba_gen", "version": __version__, "seed": seed, **settings}
            name = f"seed_{seed:06d}{self.output_ext}"
            digest = self._write(name, image, output.get("image"), provenance)
            records.append({**provenance, "file": name, "sha256": digest})
        self._append(records)

    def _complete(self, records: Mapping[int | str, Mapping[str, Any]]) -> None:
        """Draw the grid from the files."""
        if records and self.grid_size:
            self._draw_grid([self.output_dir / record["file"] for record in records.values()])

    def _write(self, name: str, image: torch.Tensor, source: Any, provenance: Mapping[str, Any]) -> str:
        geometry = next((value for value in (image, source) if isinstance(value, MetaTensor)), None)
        affine = None if geometry is None else to_affine_nd(3, geometry.affine.cpu().double().numpy())
        array = _spatial_array(image.as_tensor() if isinstance(image, MetaTensor) else image)
        return write_synthetic_image(
            self.output_dir / name, array.float(), affine, provenance, self.dtype, self.value_range
        )

    def _draw_grid(self, files: Sequence[Path]) -> None:
        low, high = self.value_range
        tiles: list[np.ndarray] = []
        for file in files[: self.grid_size]:
            if self.output_ext == ".png":
                with Image.open(file) as picture:
                    pixels = np.asarray(picture)
                levels = np.iinfo(pixels.dtype).max
                tiles.append(low + (high - low) * pixels.T.astype(np.float64) / levels)
                continue
            array = np.asarray(nib.load(file).dataobj, dtype=np.float64)
            array = array[..., 0] if array.ndim == 4 else array
            array = array[..., array.shape[-1] // 2] if array.ndim == 3 else array
            tiles.append(array)
        same = torch.from_numpy(np.stack([tile for tile in tiles if tile.shape == tiles[0].shape]))
        picture = image_grid(same[:, None], value_range=self.value_range)
        save_png(self.output_dir / "grid.png", picture, SYNTHETIC_MARKS)
