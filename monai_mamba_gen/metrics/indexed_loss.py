"""The mean loss over a data set, the same at any batch size and in any number of processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from ignite.metrics import Metric
from monai.utils.enums import CommonKeys

from ..utils.distributed import get_world_size

__all__ = ["IndexedMeanLoss"]


def _row(value: Any, row: int, count: int) -> Any:
    """Return the rows of one of ``count`` samples of a batch, kept in their dictionary or tuple."""
    if isinstance(value, Mapping):
        return {key: _row(entry, row, count) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(_row(entry, row, count) for entry in value)
    return value[row::count] if isinstance(value, torch.Tensor) and value.ndim > 0 else value


class IndexedMeanLoss(Metric):
    """
    Mean of a loss over the samples of a data set, each counted once.

    The loss is taken sample by sample, and a sample is known by the ``"index"`` of its batch: the copies that a padding
    sampler adds for the sake of several processes do not count. So the value does not depend on how the samples were
    dealt. For MONAI evaluators with ``decollate=False``, whose ``pred`` and ``label`` may be dictionaries or
    tuples of tensors. Where they have several rows for an index, as `AutoencoderPrepareBatch` stacks them (N of the
    first kind, then N of the next), these go to the loss together.

    Args:
        loss_function: ``loss_function(pred, label)`` of one sample, the batch axis kept; returns a scalar.

    Raises:
        ValueError: while running, when the batch has no ``"index"``.

    Example:
        >>> engine = Engine(lambda engine, batch: {"pred": batch["x"], "label": torch.zeros(2)})
        >>> IndexedMeanLoss(torch.nn.functional.l1_loss).attach(engine, "loss")
        >>> first = {"x": torch.tensor([1.0, 2.0]), "index": [0, 1]}
        >>> padded = {"x": torch.tensor([6.0, 1.0]), "index": [2, 0]}
        >>> engine.run([first, padded]).metrics["loss"]
        3.0
    """

    def __init__(self, loss_function: Callable[[Any, Any], torch.Tensor]) -> None:
        self.loss_function = loss_function
        super().__init__()

    def reset(self) -> None:
        """Forget the samples so far."""
        self._losses: dict[int, float] = {}

    def iteration_completed(self, engine: Engine) -> None:
        """Take the losses of the engine's batch."""
        batch, output = engine.state.batch, engine.state.output
        if "index" not in batch:
            raise ValueError("IndexedMeanLoss needs an 'index' in the batch, which tells one sample from another")
        count = len(batch["index"])
        with torch.no_grad():
            for row, index in enumerate(batch["index"]):
                pred, label = (_row(output[key], row, count) for key in (CommonKeys.PRED, CommonKeys.LABEL))
                self.update((int(index), self.loss_function(pred, label)))

    def update(self, output: tuple[int, torch.Tensor]) -> None:
        """Add the loss of one sample: its index, and a scalar."""
        index, loss = output
        self._losses[index] = float(loss)

    def compute(self) -> float:
        """Return the mean over the samples of all processes."""
        parts: list[Any] = [self._losses]
        if get_world_size() > 1:
            parts = [None] * get_world_size()
            dist.all_gather_object(parts, self._losses)
        losses = {index: loss for part in parts for index, loss in part.items()}
        if not losses:
            raise NotComputableError("IndexedMeanLoss has seen no sample")
        return math.fsum(losses.values()) / len(losses)
