"""Checkpoints that are complete or absent."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch.nn import Module

from .. import __version__
from ..utils.atomic_write import atomic_write
from ..utils.distributed import get_world_size, is_main_process
from ..utils.errors import DataError
from .checkpoint_files import atomic_save, checkpoint_path, list_checkpoints, remove_stale_files
from .non_finite_guard import first_non_finite, unwrap

__all__ = ["AtomicCheckpointSaver"]


class AtomicCheckpointSaver:
    """
    Save everything a training needs to go on, at the end of epochs, so that a kill at any moment leaves a good file.

    ``checkpoint_epoch=N.pt`` holds the state of each entry of ``save_dict``, of the trainer (``"trainer"``), of its
    gradient scaler where there is one (``"scaler"``), and ``"metadata"``. MONAI's ``CheckpointSaver`` writes in place,
    so a kill during the write leaves an unreadable file.

    Weights that are not finite are never saved: the last good checkpoint stays. Checkpoints of a run that this one
    replaces (same folder, later or equal epochs, not resumed) are kept as ``*.pt.old``. Only rank 0 writes.

    Args:
        save_dir: folder, made when missing.
        save_dict: names to objects with ``state_dict``, such as network, optimizer, lr_scheduler and the EMA network.
            Networks wrapped in DistributedDataParallel are saved unwrapped. The trainer is added by `attach`.
        model: network whose bare state dict goes to ``model.pt``, normally the EMA network.
        interval: epochs between checkpoints; the last epoch is always saved.
        n_saved: number of newest checkpoints to keep.
        metadata: JSON-like facts stored in the checkpoint and, beside ``model.pt``, in ``model.json``, such as what the
            network predicts; `load_weights` checks them.
        model_path: where to instead of ``<save_dir>/model.pt``, for a stage that leaves its weights to the next.

    Raises:
        ValueError: when interval or n_saved is below 1, or metadata is not JSON-like.
        DataError: at the end of an epoch, when a network to be saved holds NaN or infinity.

    Example:
        >>> import tempfile, torch
        >>> network = torch.nn.Linear(2, 2)
        >>> saver = AtomicCheckpointSaver(tempfile.mkdtemp(), {"network": network}, model=network)
        >>> trainer = Engine(lambda engine, batch: None)
        >>> saver.attach(trainer)
        >>> _ = trainer.run([0], max_epochs=3)
        >>> sorted(os.listdir(saver.save_dir))
        ['checkpoint_epoch=2.pt', 'checkpoint_epoch=3.pt', 'model.json', 'model.pt']
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        save_dict: Mapping[str, Any],
        model: Module | None = None,
        interval: int = 1,
        n_saved: int = 2,
        metadata: Mapping[str, Any] | None = None,
        model_path: str | os.PathLike[str] | None = None,
    ) -> None:
        if interval < 1 or n_saved < 1:
            raise ValueError(f"interval and n_saved must be at least 1, got {interval} and {n_saved}")
        try:
            facts = json.loads(json.dumps(dict(metadata or {})))
        except TypeError as error:
            raise ValueError(f"metadata must be JSON-like, got {metadata!r} ({error})") from error
        self.save_dir = Path(save_dir)
        self.model_path = self.save_dir / "model.pt" if model_path is None else Path(model_path)
        self.save_dict = {name: unwrap(entry) for name, entry in save_dict.items()}
        self.model = None if model is None else unwrap(model)
        self.interval = interval
        self.n_saved = n_saved
        self.metadata = {"monai_mamba_gen": __version__, **facts}

    def attach(self, engine: Engine) -> None:
        """Save at the end of the epochs of ``engine``; list this handler last."""
        self.save_dict.setdefault("trainer", engine)
        self._prepared = False
        engine.add_event_handler(Events.EPOCH_STARTED, self._prepare)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def _prepare(self, engine: Engine) -> None:
        """Clean the folder once a run, after a resume has set the epoch and before anything is saved."""
        if self._prepared or not is_main_process():
            return
        self._prepared = True
        self.save_dir.mkdir(parents=True, exist_ok=True)
        remove_stale_files(self.save_dir)
        for epoch, path in list_checkpoints(self.save_dir):
            if epoch >= engine.state.epoch:
                engine.logger.warning(f"{path} belongs to a run that this one replaces; kept as {path.name}.old")
                os.replace(path, path.with_name(f"{path.name}.old"))

    def __call__(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        if epoch % self.interval and epoch != engine.state.max_epochs:
            return
        self._refuse_non_finite(epoch)
        if not is_main_process():
            return
        content = {name: entry.state_dict() for name, entry in self.save_dict.items()}
        if getattr(engine, "scaler", None) is not None:
            content["scaler"] = engine.scaler.state_dict()
        content["metadata"] = {**self.metadata, "epoch": epoch, "world_size": get_world_size()}
        self.save_dir.mkdir(parents=True, exist_ok=True)
        atomic_save(content, checkpoint_path(self.save_dir, epoch))
        if self.model is not None:
            self.model_path.parent.mkdir(parents=True, exist_ok=True)
            self._write_facts(content["metadata"])
            atomic_save(self.model.state_dict(), self.model_path)
        for _, path in list_checkpoints(self.save_dir)[self.n_saved :]:
            path.unlink(missing_ok=True)

    def _write_facts(self, facts: Mapping[str, Any]) -> None:
        with atomic_write(self.model_path.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")

    def _refuse_non_finite(self, epoch: int) -> None:
        networks = {name: entry for name, entry in self.save_dict.items() if isinstance(entry, Module)}
        if self.model is not None:
            networks["model"] = self.model
        for name, network in networks.items():
            if (parameter := first_non_finite(network)) is not None:
                raise DataError(
                    f"epoch {epoch}: {name} is not saved, {parameter} holds NaN or infinity; "
                    f"the checkpoints in {self.save_dir} are from before"
                )
