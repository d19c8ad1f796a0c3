"""A line of figures for every epoch, and their curve."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import IterationEvents
from monai.utils import is_scalar
from monai.utils.enums import CommonKeys

from ..utils.atomic_write import atomic_write
from ..utils.distributed import get_world_size, is_main_process
from .loss_curve import draw_loss_curve
from .tracking import read_plain_loss, track_pictures

__all__ = ["HistoryHandler"]


class HistoryHandler:
    """
    Keep ``history.jsonl`` (one line an epoch) and ``curve.png`` (training and validation loss) up to date.

    A line holds epoch, iteration, train_loss (mean over the epoch, of rank 0's share), every scalar metric of the
    trainer and, with the prefix ``val_``, of the evaluator when it ran this epoch, learning_rate, seconds (of training)
    and images_per_second (of all ranks). Lines of later epochs are dropped, so a resumed training leaves one line an
    epoch. The line is also logged. List this handler after the one that runs the validation and before the one that
    saves checkpoints.

    Args:
        output_dir: folder for the two files.
        evaluator: engine that validates.
        optimizer: where the learning rate is read; default the trainer's.

    Example:
        >>> handlers = [HistoryHandler("eval")]  # among the handlers of a SupervisedTrainer
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        evaluator: Engine | None = None,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.evaluator = evaluator
        self.optimizer = optimizer
        self._losses: list[torch.Tensor] = []
        self._images = 0

    def attach(self, engine: Engine) -> None:
        """Follow a MONAI ``SupervisedTrainer``."""
        engine.add_event_handler(Events.STARTED, read_plain_loss)
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def _reset(self, engine: Engine) -> None:
        self._losses, self._images = [], 0

    def _collect(self, engine: Engine) -> None:
        self._losses.append(engine.state.output[CommonKeys.LOSS].detach())
        self._images += engine.state.output[CommonKeys.IMAGE].shape[0] * get_world_size()

    @staticmethod
    def _scalars(metrics: dict[str, Any], prefix: str = "") -> dict[str, float]:
        """Return the metrics that are single numbers, under names that start with the prefix once."""
        numbers = {}
        for name, value in metrics.items():
            if is_scalar(value) and not isinstance(value, str):
                numbers[name if name.startswith(prefix) else prefix + name] = float(value)
        return numbers

    def _record(self, engine: Engine) -> dict[str, Any]:
        state, seconds = engine.state, engine.state.times[Events.EPOCH_COMPLETED.name]
        optimizer = self.optimizer or engine.optimizer
        record: dict[str, Any] = {"epoch": state.epoch, "iteration": state.iteration}
        record["train_loss"] = float(torch.stack(self._losses).double().mean())
        record |= self._scalars(state.metrics)
        if self.evaluator is not None and self.evaluator.state.epoch == state.epoch:
            record |= self._scalars(self.evaluator.state.metrics, "val_")
        record["learning_rate"] = optimizer.param_groups[0]["lr"]
        record["seconds"] = round(seconds, 3)
        record["images_per_second"] = round(self._images / max(seconds, 1e-9), 3)
        return record

    def __call__(self, engine: Engine) -> None:
        if not is_main_process() or not self._losses:
            return
        record, path = self._record(engine), self.output_dir / "history.jsonl"
        self.output_dir.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines() if path.exists() else []
        records = [old for old in map(json.loads, lines) if old["epoch"] < record["epoch"]] + [record]
        with atomic_write(path) as temporary:
            temporary.write_text("".join(json.dumps(each) + "\n" for each in records))
        draw_loss_curve(records, self.output_dir / "curve.png")
        track_pictures(engine, [self.output_dir / "curve.png"])
        engine.logger.info(", ".join(f"{name} {value:.6g}" for name, value in record.items()))
