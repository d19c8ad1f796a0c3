"""Clip gradients by their norm."""

from __future__ import annotations

import torch
from ignite.engine import Engine, Events
from monai.engines import IterationEvents

from ..utils.errors import DataError
from .non_finite_guard import describe_batch

__all__ = ["GradientClipHandler"]


class GradientClipHandler:
    """
    Scale the gradients of every optimizer step down to a largest norm, and record the norm they had.

    The epoch's mean norm goes to ``engine.state.metrics["gradient_norm"]``, where MONAI's ``TensorBoardStatsHandler``
    and ``StatsHandler`` find it, so list this handler before them. Works with MONAI's mixed precision (gradients are
    unscaled first; steps the scaler will skip are left alone) and with ``accumulation_steps``.

    Args:
        max_norm: largest 2-norm over all gradients, above 0.

    Raises:
        ValueError: when max_norm is not above 0.
        DataError: from the trainer's ``run``, when without a gradient scaler the norm is not finite; the weights are
            still untouched then.

    Example:
        >>> handlers = [GradientClipHandler(max_norm=1.0)]  # among the handlers of a SupervisedTrainer
    """

    def __init__(self, max_norm: float = 1.0) -> None:
        if not max_norm > 0:
            raise ValueError(f"max_norm must be above 0, got {max_norm}")
        self.max_norm = max_norm
        self._norms: list[float] = []

    def attach(self, engine: Engine) -> None:
        """Clip in every step of a MONAI ``SupervisedTrainer``."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._record)

    def _reset(self, engine: Engine) -> None:
        self._norms = []

    @staticmethod
    def _optimizer_steps_now(engine: Engine) -> bool:
        """Repeat the rule of ``SupervisedTrainer._iteration``, which keeps it in a local variable."""
        every, length = getattr(engine, "accumulation_steps", 1), engine.state.epoch_length
        if length is None:
            return engine.state.iteration % every == 0
        position = (engine.state.iteration - 1) % length + 1
        return position % every == 0 or position == length

    def __call__(self, engine: Engine) -> None:
        if not self._optimizer_steps_now(engine):
            return
        scaler = getattr(engine, "scaler", None)
        if scaler is not None:
            scaler.unscale_(engine.optimizer)
        parameters = [parameter for group in engine.optimizer.param_groups for parameter in group["params"]]
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.max_norm))
        if norm == norm and norm != float("inf"):
            self._norms.append(norm)
        elif scaler is None:
            raise DataError(
                f"step {engine.state.iteration}, epoch {engine.state.epoch}: the gradient norm is {norm} though the "
                f"loss is finite: {describe_batch(engine.state.batch)}"
            )

    def _record(self, engine: Engine) -> None:
        if self._norms:
            engine.state.metrics["gradient_norm"] = sum(self._norms) / len(self._norms)
