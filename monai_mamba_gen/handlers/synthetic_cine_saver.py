"""Writes what an evaluator with a `CineInferer` makes: a marked 4D file for each patient or seed, and a manifest."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from monai.transforms import LoadImaged
from torch import nn

from .. import __version__
from ..data import cine_name, crop_box, frame_interval, load_volume, restore_cine, warp_volume, write_synthetic_cine
from ..transforms.load_cine import read_timing
from ..utils import DataError, file_sha256
from .synthetic_folder import SyntheticFolderSaver, batch_items, item_path

__all__ = ["SyntheticCineSaver"]

_GRIDS = ("source", "model")


class SyntheticCineSaver(SyntheticFolderSaver):
    """
    Save each cine as ``<patient>_4d.nii.gz``, or ``<patient>_seed_000012_4d.nii.gz``, with pictures and a manifest.

    To be attached to a MONAI evaluator whose inferer is a `CineInferer`. What the model made on its resampled crop goes
    back to the scan: with ``grid="source"`` the file has the scan's affine, shape and units of intensity, and each
    frame is the scan's end-diastolic (ED) volume warped by the model's field (see `restore_cine`), so that a frame at
    phase 0 is that volume itself. A model that does not warp (`LinearBlend`) has the scan's own ED and ES volumes
    blended; where there is none of ES, its frames are written on the model's grid, with a warning. It has neither
    labels nor a displacement field. For the files see
    `write_synthetic_cine`, for the time between frames `frame_interval`.

    Lines of ``manifest.jsonl`` are on disk only after their files, one line a cine; ``files`` holds the SHA-256 of each
    file. A run that was killed continues where the data list went through `unfinished_cines`. Where evaluators may have
    nothing left to do, name `finish` after them, see `SyntheticImageSaver`.

    Read from a batch: ``image`` (MetaTensor on the model's grid) and ``patient``; ``seed`` (needed for generation);
    ``image_path``, ``label_path`` and ``target_path``, or else the file names in the MetaTensors ``image``, ``label``
    and ``target``; ``ed_frame`` and ``es_frame`` (1-based), ``seconds_per_frame`` and ``num_frames`` of the source, or
    else the paths ``series`` or ``image_path`` of a 4D file for the latter.

    Args:
        output_dir: folder of the files; made where it is missing.
        inferer: the `CineInferer` that makes the cines; its ``result`` is what is written.
        model_name: name of the model, for the marks.
        weights_path: weights file whose SHA-256 goes into the marks; default: `state_dict_sha256` of the network.
        network: network to take that from; default the evaluator's.
        grid: "source", or "model": the frames as the model made them, with the affine of its grid.
        save_frames: whether to write single frames too.
        save_labels: whether to write the labels of each frame, where the batch has one of ED.
        save_displacement: whether to write the displacement field.
        gif: whether to draw an animated GIF.
        strip: whether to draw a film strip.
        seconds_per_beat: length of a generated beat where the source's is unknown.
        settings: further JSON-like settings for the marks; cines of other settings are refused in the same folder.
        dtype: stored type, see `write_synthetic_cine`.

    Raises:
        DataError: when the weights file is missing, the folder holds cines of other weights or settings, or a source
            cannot be read.

    Example:
        >>> saver = SyntheticCineSaver("cines", inferer=None, save_frames=True)
        >>> saver.attach(evaluator)  # doctest: +SKIP
    """

    _content = "cines"
    _pictures, _show_patients = "*.png", True

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        inferer: Any,
        model_name: str = "MSTG",
        weights_path: str | os.PathLike[str] | None = None,
        network: nn.Module | None = None,
        grid: str = "source",
        save_frames: bool = False,
        save_labels: bool = True,
        save_displacement: bool = False,
        gif: bool = True,
        strip: bool = True,
        seconds_per_beat: float = 1.0,
        settings: Mapping[str, Any] | None = None,
        dtype: str = "float32",
    ) -> None:
        if grid not in _GRIDS:
            raise ValueError(f"grid must be one of {_GRIDS}, got {grid!r}")
        if not seconds_per_beat > 0:
            raise ValueError(f"seconds_per_beat must be above 0, got {seconds_per_beat!r}")
        settings = {"grid": grid, "dtype": dtype, **(settings or {})}
        super().__init__(output_dir, model_name, weights_path, network, inferer, settings)
        self.inferer = inferer
        self.grid = grid
        self.save_labels = save_labels
        self.save_displacement = save_displacement
        self.seconds_per_beat = float(seconds_per_beat)
        self.options = {"save_frames": save_frames, "gif": gif, "strip": strip, "dtype": dtype}

    def save(self, engine: Engine) -> None:
        """Write the cines of the inferer's last result and list them."""
        settings = self._begin(engine)
        result, items = self.inferer.result, batch_items(engine.state.batch)
        if len(items) != len(result["frames"]):
            raise ValueError(f"batch has {len(items)} items, inferer.result {len(result['frames'])}: not of this batch")
        self._append([self._save(item, _part(result, index), settings) for index, item in enumerate(items)])

    def _save(self, item: Mapping[str, Any], result: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
        """Write one cine and return its line of the manifest."""
        generated = result["mode"] == "generation"
        if generated and item.get("seed") is None:
            raise ValueError("a generated cine needs a 'seed' in its batch, which names its files")
        seed = int(item["seed"]) if generated else None
        name = cine_name(item["patient"], seed)
        cine, origin = self._cine(item, result)
        seconds = frame_interval(result["phases"], **self._timing(item), seconds_per_beat=self.seconds_per_beat)
        provenance = {"package": "monai_mamba_gen", "version": __version__, "patient": str(item["patient"])}
        provenance |= {"seed": seed, **settings, "kind": result["mode"], "phases": result["phases"], **origin}
        provenance["seconds_per_frame"] = seconds
        if not self.save_displacement or origin["method"] == "blend":
            cine.pop("displacement", None)
        files = write_synthetic_cine(
            self.output_dir, name, provenance=provenance, seconds_per_frame=seconds, **cine, **self.options
        )
        first = next(iter(files))
        return {**provenance, "name": name, "file": first, "sha256": files[first], "files": files}

    def _cine(self, item: Mapping[str, Any], result: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return arrays and affine for `write_synthetic_cine`, and where they come from for the marks."""
        image, frames, field = item["image"], result["frames"], result["displacement"]
        path = item_path(item, "image")
        origin = {"source": None if path is None else os.path.basename(path), "method": "warp"}
        if path is not None and os.path.isfile(path):
            origin |= {"source_sha256": file_sha256(path), "source_frame": _number(item.get("ed_frame"))}
        blended = not bool(field.any()) and not bool((frames == frames[:1]).all())
        two_sided = not blended and result["displacement_back"] is not None
        origin["method"] = "blend" if blended else "warp of both ends" if two_sided else "warp"
        needed = blended or two_sided
        target = item_path(item, "target") if needed and result["mode"] == "interpolation" else None
        if self.grid == "source" and not (needed and target is None):
            return self._on_source(item, result, path, target), {**origin, "geometry": "source"}
        if self.grid == "source":
            warnings.warn(f"{item['patient']}: no ES file to mix with, frames are on the model's grid", stacklevel=2)
        cine = {"frames": frames, "affine": image.affine, "displacement": field}
        if self.save_labels and not blended and item.get("label") is not None:
            label = _plain(item["label"])[0]
            cine["labels"] = torch.stack([warp_volume(label, each, "nearest") for each in field])
        return cine, {**origin, "geometry": "model"}

    def _on_source(
        self, item: Mapping[str, Any], result: dict[str, Any], path: str | None, target: str | None
    ) -> dict[str, Any]:
        """Warp the source's ED volume and mix it with its ES volume, warped too or not, where ``target`` names that."""
        if path is None:
            raise DataError(f"patient {item['patient']}: grid='source' needs the path of the ED volume")
        image, field = item["image"], result["displacement"]
        volume, affine = _read(path, "image", item.get("ed_frame"))
        label = None
        blended = target is not None and result["displacement_back"] is None
        label_path = item_path(item, "label") if self.save_labels and not blended else None
        if label_path is not None:
            label, _ = _read(label_path, "label", item.get("ed_frame"))
            _check_shape(label_path, "label", label, volume)
        cine = restore_cine(volume, affine, field, image.affine, label)
        if target is not None:
            end, _ = _read(target, "target", item.get("es_frame"))
            _check_shape(target, "target", end, volume)
            ends = end.expand(len(field), *end.shape)
            if not blended:
                ends = restore_cine(end, affine, result["displacement_back"], image.affine)["frames"]
            mixed = zip(cine["frames"], ends, result["phases"], strict=True)
            cine["frames"] = torch.stack([frame.lerp(other, phase) for frame, other, phase in mixed])
        cine["box"] = crop_box(image.affine, field.shape[2:], affine, volume.shape)
        return {**cine, "affine": affine}

    @staticmethod
    def _timing(item: Mapping[str, Any]) -> dict[str, Any]:
        seconds, count = item.get("seconds_per_frame"), _number(item.get("num_frames"))
        series = item.get("series")
        for path in (series if isinstance(series, (str, os.PathLike)) else None, item_path(item, "image")):
            if count is None and path is not None and os.path.isfile(path):
                count = _frame_count(path)
        frames = {key: _number(item.get(key)) for key in ("ed_frame", "es_frame")}
        return {"seconds_per_frame": None if seconds is None else float(seconds), "num_frames": count, **frames}


def _part(result: Mapping[str, Any], index: int) -> dict[str, Any]:
    """Return one sample's share of an inferer's result, on the CPU."""
    frames, phases, back = _plain(result["frames"][index]), _plain(result["phases"]), result.get("displacement_back")
    phases = (phases if phases.ndim == 1 else phases[index]).tolist()
    return {
        "frames": frames,
        "displacement": _plain(result["displacement"][index]),
        "displacement_back": None if back is None else _plain(back[index]),
        "phases": [round(phase, 6) for phase in phases],
        "mode": str(result["mode"]),
    }


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().as_subclass(torch.Tensor).cpu().float()


def _frame_count(path: str | os.PathLike[str]) -> int | None:
    """Return the frames of a 4D NIfTI, None for any other file."""
    try:
        count = read_timing(path)[0]
    except DataError:
        return None
    return count if count > 1 else None


def _number(value: Any) -> int | None:
    return None if value is None else int(value)


def _read(path: str, key: str, frame: Any) -> tuple[torch.Tensor, np.ndarray]:
    """Return one frame (X, Y, Z) of a file, float32, and its affine."""
    loaded = load_volume({key: path}, LoadImaged(key, ensure_channel_first=True, dtype=torch.float32), (key,))[key]
    number = 1 if loaded.shape[0] == 1 else _number(frame)
    if loaded.ndim != 4 or number is None or not 1 <= number <= loaded.shape[0]:
        raise DataError(f"file {path} (key {key!r}): has shape {tuple(loaded.shape)}, frame {number} is asked for")
    return loaded.as_tensor()[number - 1].contiguous(), loaded.affine.double().numpy()


def _check_shape(path: str, key: str, volume: torch.Tensor, image: torch.Tensor) -> None:
    if volume.shape != image.shape:
        raise DataError(
            f"file {path} (key {key!r}): shape {tuple(volume.shape)}, that of the ED volume is {tuple(image.shape)}"
        )
