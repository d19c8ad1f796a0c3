"""What the savers of synthetic images and of synthetic cines share: one folder, one kind of content, one manifest."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from torch import nn

from ..data import append_manifest, manifest_path, merge_manifest, read_manifest
from ..utils import DataError, get_rank, get_world_size, is_main_process, remove_leftovers
from ..utils.weights import state_dict_sha256, weights_sha256
from .tracking import track_pictures

__all__ = ["SyntheticFolderSaver", "batch_items", "item_path"]


def batch_items(value: Any) -> list[Mapping[str, Any]]:
    """Return a batch as one dictionary for each sample, whether the engine has decollated it or not."""
    if isinstance(value, Mapping):
        tensors = {key: entry for key, entry in value.items() if isinstance(entry, (torch.Tensor, Sequence))}
        count = len(next(iter(tensors.values())))
        return [{key: entry[index] for key, entry in tensors.items()} for index in range(count)]
    return list(value)


def item_path(item: Mapping[str, Any], key: str) -> str | None:
    """Return the file of an entry: ``<key>_path`` of the batch, or else the name that its MetaTensor has."""
    given = item.get(f"{key}_path")
    if given is None:
        given = getattr(item.get(key), "meta", {}).get("filename_or_obj")
    return os.fspath(Path(given)) if isinstance(given, (str, os.PathLike)) and os.fspath(given) else None


class SyntheticFolderSaver:
    """
    Base of handlers that write marked files into a folder and list them in its manifest.

    One run at a time writes into a folder, in any number of processes. Two runs that share one lose each other's lines
    of the manifest; jobs that run side by side get a folder each, see `SyntheticFolderDataset`.

    Args:
        output_dir: the folder; made where it is missing.
        model_name: name of the model, for the marks.
        weights_path: weights file whose SHA-256 goes into the marks; default: `state_dict_sha256` of the network.
        network: network to take that from; default the evaluator's.
        sampler: the inferer that makes the content, for its ``describe()``; default the evaluator's inferer.
        settings: further JSON-like settings for the marks; content of other settings is refused in the same folder.

    Raises:
        DataError: when the weights file is missing, or the folder holds content of other weights or settings.
    """

    _content = "images"
    _pictures, _show_patients = "grid.png", False  # for MLflow

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        model_name: str = "unnamed",
        weights_path: str | os.PathLike[str] | None = None,
        network: nn.Module | None = None,
        sampler: Any = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.model_name = model_name
        self.network = network
        self.sampler = sampler
        self.settings = dict(settings or {})
        self._weights_sha256 = None if weights_path is None else weights_sha256(weights_path)
        self._settings: dict[str, Any] | None = None
        self._finished = False
        self._started = time.time()

    def attach(self, engine: Engine) -> None:
        """Save after each iteration of an engine and finish when it has completed."""
        known = {"model": self.model_name, "weights_sha256": self._weights_sha256}
        known |= {**self._describe(self.sampler), **self.settings}
        self._check_folder({key: value for key, value in known.items() if key != "weights_sha256" or value is not None})
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.save)
        engine.add_event_handler(Events.COMPLETED, lambda _: self.finish())
        engine.add_event_handler(Events.COMPLETED, self._track)

    def _track(self, engine: Engine) -> None:
        if is_main_process():
            pictures = sorted(self.output_dir.glob(self._pictures))
            track_pictures(engine, pictures, "synthetic", patients=self._show_patients)

    def save(self, engine: Engine) -> None:
        """Write what the engine's current iteration made and list it."""
        raise NotImplementedError

    def finish(self) -> None:
        """
        Merge the parts of the manifest, on rank 0, once all processes are here, and tidy up after killed runs.

        All processes have to call it, and do when their evaluator completes; a second call does nothing.
        """
        if self._finished:
            return
        if get_world_size() > 1:
            dist.barrier()
        if is_main_process():
            self._complete(merge_manifest(self.output_dir))
            remove_leftovers(self.output_dir, before=self._started)
        self._finished = True

    def _complete(self, records: Mapping[int | str, Mapping[str, Any]]) -> None:
        """Add what needs all records, on rank 0."""

    def _begin(self, engine: Engine) -> dict[str, Any]:
        """Return the settings for the marks, the folder checked for them."""
        if self._settings is None:
            self._settings = self._collect_settings(engine)
            self._check_folder(self._settings)
        self._finished = False
        return self._settings

    def _append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """List what is on disk, with the date, in this process's part of the manifest."""
        date = datetime.now(timezone.utc).isoformat(timespec="seconds")
        path = manifest_path(self.output_dir, get_rank(), get_world_size())
        append_manifest(path, [{**record, "date": date} for record in records])

    @staticmethod
    def _describe(sampler: Any) -> dict[str, Any]:
        return sampler.describe() if hasattr(sampler, "describe") else {}

    def _collect_settings(self, engine: Engine) -> dict[str, Any]:
        network = self.network if self.network is not None else getattr(engine, "network", None)
        digest = self._weights_sha256
        if digest is None and network is not None:
            digest = state_dict_sha256(getattr(network, "module", network))
        sampler = self.sampler if self.sampler is not None else getattr(engine, "inferer", None)
        return {"model": self.model_name, "weights_sha256": digest, **self._describe(sampler), **self.settings}

    def _check_folder(self, settings: Mapping[str, Any]) -> None:
        """Refuse to mix content of different weights or settings in one folder."""
        settings = json.loads(json.dumps(dict(settings)))
        for record in read_manifest(self.output_dir).values():
            for key, value in settings.items():
                if record.get(key) != value:
                    raise DataError(
                        f"{self.output_dir}: holds {self._content} made with {key} {record.get(key)!r}, not {value!r} "
                        f"({record['file']}); choose another output_dir or empty this one"
                    )
