"""Continue a training from its newest good checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from ..utils.checkpoints import DamagedFileError, load_tensors, state_dict_mismatch
from ..utils.errors import DataError
from .checkpoint_files import list_checkpoints
from .non_finite_guard import unwrap

__all__ = ["ResumeHandler"]


class ResumeHandler:
    """
    Load the newest readable checkpoint when a training starts, and go on after its epoch.

    Files are read with ``weights_only=True``. A damaged file is passed over with a warning. The ``max_epochs`` asked
    for now holds, not the one in the file. Only the first run of the trainer loads: one that is run again, as in every
    round of a federated training, goes on with the weights it was given.

    Args:
        path: a checkpoint, or the folder that holds them.
        load_dict: names to objects, as given to `AtomicCheckpointSaver`. The trainer and its gradient scaler are added.
        map_location: device to load to; the objects move the values to where they need them.

    Raises:
        DataError: from the trainer's ``run``: nothing to resume from, no readable file, a checkpoint of another
            network, optimizer or epoch length, or a file with pickled code.

    Example:
        >>> handlers = [ResumeHandler("models", {"network": torch.nn.Linear(2, 2)})]  # of a SupervisedTrainer
    """

    def __init__(
        self, path: str | os.PathLike[str], load_dict: Mapping[str, Any], map_location: str | torch.device = "cpu"
    ) -> None:
        self.path = Path(path)
        self.load_dict = {name: unwrap(entry) for name, entry in load_dict.items()}
        self.map_location = map_location

    def attach(self, engine: Engine) -> None:
        """Load when ``engine`` starts."""
        self.load_dict.setdefault("trainer", engine)
        self._resumed = False
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        if self._resumed:
            return
        path, content = self._newest(engine)
        targets = dict(self.load_dict)
        if getattr(engine, "scaler", None) is not None and "scaler" in content:
            targets["scaler"] = engine.scaler
        self._check(path, content, engine)
        max_epochs = engine.state.max_epochs
        for name, target in targets.items():
            try:
                if target is engine:
                    self._restore_progress(engine, content[name])
                else:
                    target.load_state_dict(content[name])
            except (KeyError, RuntimeError, ValueError) as error:
                raise DataError(f"{path}: {name} does not fit this training ({error})") from error
        self._resumed = True
        engine.logger.info(f"resumed from {path} after epoch {engine.state.epoch}")
        if max_epochs is not None and engine.state.epoch >= max_epochs:
            engine.logger.warning(f"{path}: epoch {engine.state.epoch} of {max_epochs}, nothing is left to train")

    @staticmethod
    def _restore_progress(engine: Engine, state: Mapping[str, Any]) -> None:
        engine.state.iteration = state["iteration"]
        engine.state.epoch = state["iteration"] // state["epoch_length"]

    def _newest(self, engine: Engine) -> tuple[Path, dict[str, Any]]:
        paths = [self.path] if self.path.is_file() else [path for _, path in list_checkpoints(self.path)]
        for path in paths:
            try:
                content = load_tensors(path, self.map_location)
            except DamagedFileError as error:
                engine.logger.warning(f"{error}; passed over")
                continue
            if isinstance(content, dict):
                return path, content
            engine.logger.warning(f"{path} is not a checkpoint and passed over")
        what = "only damaged checkpoints" if paths else "no checkpoint"
        raise DataError(f"{self.path}: {what} to resume from; start without resume, or name another folder")

    def _check(self, path: Path, content: Mapping[str, Any], engine: Engine) -> None:
        """Refuse a checkpoint that does not fit before anything is loaded from it."""
        missing = [name for name in self.load_dict if name not in content]
        if missing:
            raise DataError(f"{path} has no {', '.join(missing)}; it has {', '.join(content)}")
        for name, target in self.load_dict.items():
            if isinstance(target, torch.nn.Module) and (reason := state_dict_mismatch(target, content[name])):
                raise DataError(f"{path} is of another network: {name}.{reason}")
        length = content["trainer"]["epoch_length"] if "trainer" in content else None
        if length and engine.state.epoch_length not in (None, length):
            raise DataError(
                f"{path} counts {length} steps an epoch, this training {engine.state.epoch_length}: data, batch size "
                "or number of processes differ"
            )
