"""Pictures and figures for MLflow, where ``--tracking mlflow`` has attached MONAI's handler to an engine."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from urllib.parse import urlparse

from ignite.engine import Engine
from monai.handlers import MLFlowHandler

__all__ = ["mlflow_handlers", "read_plain_loss", "track_pictures", "track_report"]

logger = logging.getLogger(__name__)


def mlflow_handlers(engine: Engine) -> list[MLFlowHandler]:
    """
    Return MONAI's MLflow handlers of an engine, none where a run is not tracked.

    MONAI attaches them itself, after those of the config, and hands them to nobody; ignite has no public list either.
    """
    attached = (entry[0] for entries in engine._event_handlers.values() for entry in entries)
    owners = (getattr(handler, "__self__", None) for handler in attached)
    return list(dict.fromkeys(owner for owner in owners if isinstance(owner, MLFlowHandler)))


def read_plain_loss(engine: Engine) -> None:
    """
    Let MLflow handlers read the loss of a trainer that does not decollate its output.

    MONAI's settings for tracking take it with ``from_engine(["loss"], first=True)``. That is a number where the output
    is a list of samples, but a tuple of one where it is a dictionary, at which MLflow fails (MONAI 1.6.1).
    """
    for handler in mlflow_handlers(engine):
        if not isinstance(handler.output_transform, _First):
            handler.output_transform = _First(handler.output_transform)


class _First:
    """Give what a function returns, without the tuple round a single value."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, output: Any) -> Any:
        value = self.function(output)
        return value[0] if isinstance(value, tuple) and len(value) == 1 else value


def track_pictures(
    engine: Engine, paths: Iterable[str | os.PathLike[str]], folder: str | None = None, patients: bool = False
) -> None:
    """
    Add pictures to the artifacts of the engine's MLflow run, where there is one.

    Args:
        engine: the engine.
        paths: the files.
        folder: folder among the artifacts.
        patients: whether they show patients. Such pictures are added only where MLflow keeps its artifacts in a folder
            of this machine.
    """
    for handler in mlflow_handlers(engine):
        if handler.cur_run is None:
            continue
        run = handler.cur_run.info
        if patients and urlparse(run.artifact_uri).scheme not in ("", "file"):
            logger.info("pictures of patients are not sent to %s", run.artifact_uri)
            continue
        for path in paths:
            handler.client.log_artifact(run.run_id, str(path), folder)


def track_report(engine: Engine, pictures: Sequence[str | os.PathLike[str]] = ()) -> None:
    """
    Add what an evaluation has found, ``engine.state.metrics`` and pictures, to its MLflow run, and end that run.

    MONAI's handler reads the metrics before the reports are made, and would leave the run open for the next training
    to write into.
    """
    track_pictures(engine, pictures, "report", patients=True)
    for handler in mlflow_handlers(engine):
        if handler.cur_run is not None:
            for name, value in engine.state.metrics.items():
                if math.isfinite(value):
                    handler.client.log_metric(handler.cur_run.info.run_id, name, value, step=engine.state.epoch)
            handler.close()
