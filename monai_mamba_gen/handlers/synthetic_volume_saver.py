"""Writes the volumes that an evaluator translates: on the grid of the file they came from, marked, with a manifest."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import nibabel as nib
import torch
from ignite.engine import Engine
from monai.transforms import LoadImaged
from torch import nn

from .. import __version__
from ..data import load_volume, volume_name, write_synthetic_volume
from ..transforms import restore_volume
from ..utils import file_sha256
from .synthetic_folder import SyntheticFolderSaver
from .translated_items import TranslatedItem, as_3d, draw_item, image_keys_of, to_output_range, translated_items

__all__ = ["SyntheticVolumeSaver"]

_SAME_GRID = 1e-3  # mm
_EXPECTED_COVER = 0.99


class SyntheticVolumeSaver(SyntheticFolderSaver):
    """
    Save each translated volume as ``<patient>_mr.nii.gz``, or ``_ct`` for the other direction, and list it.

    To be attached to a MONAI evaluator whose inferer is a `TranslationInferer`. What the model made on its own grid
    goes back to that of the source file: original affine (NIfTI's two transforms bit by bit), shape and mask. Turned
    axes, padding and cropping are undone exactly, resampling trilinearly inside the mask, see `restore_volume`. The
    mask is the file it was loaded from where that has the source's grid, else the batch's or the inferer's, restored
    with the volume; outside, and where the model's crop did not reach, is the smallest value of ``output_range``. Where
    more than a hundredth of the mask was not reached, there is a warning; ``covered`` in the marks tells the share.

    Files are those of `write_synthetic_volume`: the volume, ``<patient>_mr_std.nii.gz`` where samples were averaged, a
    picture of the middle slice and a JSON sidecar. Lines of ``manifest.jsonl`` are on disk only after their files, one
    a volume; ``files`` holds the SHA-256 of each file. A run that was killed continues where the data list went through
    `unfinished_volumes`. Where evaluators may have nothing left to do, name `finish` after them, see
    `SyntheticImageSaver`.

    Read from a batch: source (MetaTensor on the model's grid, whose metadata still know ``original_affine`` and
    ``spatial_shape``; without them the file has the model's grid), ``patient``, ``mask`` and, for the picture, the true
    image, where they are there; ``image_path`` and ``mask_path``, or else the file names in the MetaTensors.

    Args:
        output_dir: folder of the files; made where it is missing.
        inferer: the `TranslationInferer` whose ``result`` is written.
        model_name: name of the model, for the marks.
        weights_path: weights file whose SHA-256 goes into the marks; default: `state_dict_sha256` of the network.
        network: network to take that from; default the evaluator's.
        settings: further JSON-like settings for the marks; volumes of other settings are refused in the same folder.
        save_std: whether to write the standard deviation, where there is one.
        picture: whether to draw a picture.
        dtype: stored type, see `write_synthetic_volume`.
        output_range: what -1 and 1 of the model stand for in the file: (0, 1) for an MR normalised to percentiles, the
            window in Hounsfield units for a CT.
        image_key: key of the source; default "image", and "target" where the inferer's direction is "mr2ct".
        target_key: key of the true image; default the other of the two.

    Raises:
        ValueError: when an argument is outside what is allowed.
        DataError: when the weights file is missing, the folder holds volumes of other weights or settings, a source
            cannot be read, or what was made is not finite.

    Example:
        >>> saver = SyntheticVolumeSaver("synthetic_mr", inferer=None, model_name="DiffMa")
        >>> saver.attach(evaluator)  # doctest: +SKIP
    """

    _content = "volumes"
    _pictures, _show_patients = "*.png", True

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        inferer: Any,
        model_name: str = "DiffMa",
        weights_path: str | os.PathLike[str] | None = None,
        network: nn.Module | None = None,
        settings: Mapping[str, Any] | None = None,
        save_std: bool = True,
        picture: bool = True,
        dtype: str = "float32",
        output_range: Sequence[float] = (0.0, 1.0),
        image_key: str | None = None,
        target_key: str | None = None,
    ) -> None:
        if len(output_range) != 2 or not output_range[0] < output_range[1]:
            raise ValueError(f"output_range must be (low, high) with low < high, got {tuple(output_range)}")
        self.direction, self.image_key, self.target_key = image_keys_of(inferer, image_key, target_key)
        self.output_range = (float(output_range[0]), float(output_range[1]))
        known = {"direction": self.direction, "output_range": list(self.output_range), "dtype": dtype}
        super().__init__(output_dir, model_name, weights_path, network, inferer, {**known, **(settings or {})})
        self.inferer = inferer
        self.save_std = save_std
        self.picture = picture
        self.dtype = dtype

    def save(self, engine: Engine) -> None:
        """Write the volumes of the inferer's last result and list them."""
        settings = self._begin(engine)
        result = getattr(self.inferer, "result", None)
        items = translated_items(engine.state.batch, result, self.image_key, self.target_key)
        self._append([self._save(item, settings) for item in items])

    def _save(self, item: TranslatedItem, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Write one volume and return its line of the manifest."""
        name, path = volume_name(item.patient, self.direction), item.path(self.image_key)
        volumes, affine, origin = self._on_source(item)
        provenance = {"package": "monai_mamba_gen", "version": __version__, "patient": item.patient, **settings}
        provenance |= {"kind": "translation", "seeds": item.seeds, **origin}
        if path is not None:
            provenance["source"] = os.path.basename(path)
            provenance["source_sha256"] = file_sha256(path) if os.path.isfile(path) else None
        files = write_synthetic_volume(
            self.output_dir,
            name,
            volumes[0],
            affine,
            provenance,
            std=volumes[1] if len(volumes) > 1 else None,
            picture=draw_item(item, self.direction) if self.picture else None,
            dtype=self.dtype,
            header=_nifti_header(path) if origin["geometry"] == "source" else None,
        )
        first = next(iter(files))
        return {**provenance, "name": name, "file": first, "sha256": files[first], "files": files}

    def _on_source(self, item: TranslatedItem) -> tuple[list[torch.Tensor], torch.Tensor, dict[str, Any]]:
        """Return prediction and standard deviation in the units of the file, its affine, and marks of how."""
        low, high = self.output_range
        made = [to_output_range(item.pred, self.output_range)]
        if self.save_std and item.std is not None:
            made.append(item.std.double() * ((high - low) / 2))
        values, mask = torch.stack(made).cpu(), None if item.mask is None else item.mask.cpu()
        affine, shape = _source_grid(item)
        if affine is None:
            affine = torch.eye(4, dtype=torch.float64) if item.affine is None else item.affine
            inside = torch.ones_like(values[0], dtype=torch.bool) if mask is None else mask
            known, marks = inside, {"geometry": "model", "mask": "none" if mask is None else "as given"}
        else:
            if values.ndim == 3:  # images: one slice
                values, mask = values[..., None], None if mask is None else mask[..., None]
            size = (*shape, 1)[:3]
            values, known = restore_volume(values, item.affine, affine, size, mask)
            inside, origin = self._source_mask(item, mask, affine, size)
            values, known, inside = (each.reshape(*each.shape[:-3], *shape) for each in (values, known, inside))
            marks = {"geometry": "source", "mask": origin}
        covered = (known & inside).sum().item() / max(inside.sum().item(), 1)
        if covered < _EXPECTED_COVER:
            empty = f"{100 * (1 - covered):.1f} %"
            warnings.warn(f"{item.patient}: {empty} of the mask lies beyond the model's grid, left empty", stacklevel=2)
        filled = [torch.where(known & inside, *pair).float() for pair in zip(values, (low, 0.0), strict=False)]
        return filled, affine, {**marks, "covered": round(covered, 6)}

    def _source_mask(
        self, item: TranslatedItem, mask: torch.Tensor | None, affine: torch.Tensor, shape: Sequence[int]
    ) -> tuple[torch.Tensor, str]:
        """Return the mask on the grid of the file, and where it comes from."""
        path = item.path("mask") if item.item.get("mask") is not None else None
        if path is not None and path not in (item.path(self.image_key), item.path(self.target_key)):
            if os.path.exists(path):
                loader = LoadImaged("mask", ensure_channel_first=True, dtype=torch.float32)
                loaded = load_volume({"mask": path}, loader, ("mask",))["mask"]
                same = tuple(loaded.shape[1:]) == tuple(shape) or tuple(loaded.shape[1:]) == tuple(shape[:2])
                if same and torch.allclose(as_3d(loaded.affine), affine, atol=_SAME_GRID):
                    return loaded.as_tensor()[0].reshape(tuple(shape)) > 0, os.path.basename(path)
        if mask is None:
            return torch.ones(tuple(shape), dtype=torch.bool), "none"
        return restore_volume(mask[None].float(), item.affine, affine, shape)[0][0] >= 0.5, "restored"


def _source_grid(item: TranslatedItem) -> tuple[torch.Tensor | None, tuple[int, ...]]:
    """Return affine and shape of the file that a sample comes from, or None where its metadata do not tell."""
    meta = {} if item.geometry is None else item.geometry.meta
    if meta.get("original_affine") is None or meta.get("spatial_shape") is None:
        return None, ()
    shape = tuple(int(side) for side in torch.as_tensor(meta["spatial_shape"]).flatten())[:3]
    return as_3d(meta["original_affine"]), shape


def _nifti_header(path: str | None) -> nib.Nifti1Header | None:
    if path is None or not path.lower().endswith((".nii", ".nii.gz")) or not os.path.isfile(path):
        return None
    header = nib.load(path).header
    return header if isinstance(header, nib.Nifti1Header) else None
