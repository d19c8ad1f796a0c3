"""A contrastive loss over a whole data set, the same at any batch size and in any number of processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from ignite.metrics import Metric
from monai.utils.enums import CommonKeys

from ..utils.distributed import get_world_size

__all__ = ["IndexedPairLoss"]


class IndexedPairLoss(Metric):
    """
    A contrastive loss of all pairs of a data set at once, each pair counted once.

    What a contrastive loss says depends on how many samples it compares, so a mean over batches would depend on how
    they were dealt, and there is nothing to compare in a batch of one. Here the embeddings of all batches and processes
    are gathered, known by the ``"index"`` of their batch, and compared together. For MONAI evaluators with
    ``decollate=False``.

    Args:
        loss_function: ``loss_function((first, second))`` of two (M, E) for M samples, such as `InfoNCELoss`.

    Raises:
        ValueError: while running, when the batch has no ``"index"``.

    Example:
        >>> engine = Engine(lambda engine, batch: {"pred": (batch["x"], batch["x"])})
        >>> IndexedPairLoss(lambda views: len(views[0])).attach(engine, "samples")
        >>> batches = [{"x": torch.eye(2), "index": [0, 1]}, {"x": torch.eye(2), "index": [2, 0]}]
        >>> engine.run(batches).metrics["samples"]
        3.0
    """

    def __init__(self, loss_function: Callable[[tuple[torch.Tensor, torch.Tensor]], Any]) -> None:
        self.loss_function = loss_function
        super().__init__()

    def reset(self) -> None:
        """Forget the samples so far."""
        self._pairs: dict[int, torch.Tensor] = {}

    def iteration_completed(self, engine: Engine) -> None:
        """Take the pairs of the engine's batch."""
        batch = engine.state.batch
        if "index" not in batch:
            raise ValueError("IndexedPairLoss needs an 'index' in the batch, which tells one sample from another")
        first, second = engine.state.output[CommonKeys.PRED]
        for row, index in enumerate(batch["index"]):
            self.update((int(index), torch.stack([first[row], second[row]])))

    def update(self, output: tuple[int, torch.Tensor]) -> None:
        """Add one pair: the index of the sample, and (2, E)."""
        index, pair = output
        self._pairs[index] = pair.detach().float().cpu()

    def compute(self) -> float:
        """Return the loss of the samples of all processes, in the order of their indices."""
        parts: list[Any] = [self._pairs]
        if get_world_size() > 1:
            parts = [None] * get_world_size()
            dist.all_gather_object(parts, self._pairs)
        pairs = {index: pair for part in parts for index, pair in part.items()}
        if not pairs:
            raise NotComputableError("IndexedPairLoss has seen no sample")
        first, second = torch.stack([pairs[index] for index in sorted(pairs)], dim=1)
        with torch.no_grad():
            return float(self.loss_function((first, second)))
