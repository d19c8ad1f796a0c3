"""Stop a training at the first loss that is not a finite number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Engine
from monai.engines import IterationEvents
from monai.utils.enums import CommonKeys
from torch import nn

from ..utils.errors import DataError

__all__ = ["NonFiniteGuard", "describe_batch", "first_non_finite", "unwrap"]

_MOST_NAMES = 8


def unwrap(network: Any) -> Any:
    """Return the network inside DataParallel or DistributedDataParallel; anything else as it is."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    return network.module if isinstance(network, wrappers) else network


def first_non_finite(network: nn.Module) -> str | None:
    """Return the name of the first parameter or buffer that holds NaN or infinity, None when there is none."""
    for name, value in network.state_dict().items():
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all()):
            return name
    return None


def _bad_rows(tensor: Any) -> list[int]:
    """Return which samples of (N, ...) hold NaN or infinity."""
    if not isinstance(tensor, torch.Tensor) or tensor.ndim < 2:
        return []
    return (~torch.isfinite(tensor.detach()).flatten(1).all(dim=1)).nonzero().flatten().tolist()


def _file_names(batch: Mapping[str, Any]) -> list[str]:
    """Return the file name of each sample: the key "source", or what MONAI's readers noted of the image."""
    metadata = getattr(batch.get(CommonKeys.IMAGE), "meta", None) or {}
    for names in (batch.get("source"), metadata.get("filename_or_obj")):
        if isinstance(names, str):
            return [names]
        if isinstance(names, Sequence) and len(names) > 0:
            return [str(name) for name in names]
    return []


def describe_batch(batch: Any, rows: Sequence[int] | None = None) -> str:
    """
    Name the samples of a batch by file and index.

    Args:
        batch: collated batch; its keys ``"source"`` (or the image's meta data) and ``"index"`` are used.
        rows: the samples to name; default all of them.

    Returns:
        Text such as ``"a.nii.gz, b.nii.gz (index 3, 7)"``.
    """
    if not isinstance(batch, Mapping):
        return "a batch without file names"

    def pick(values: list[str]) -> str:
        chosen = values if rows is None else [values[row] for row in rows if row < len(values)]
        chosen = list(dict.fromkeys(chosen))
        return ", ".join(chosen[:_MOST_NAMES]) + (", ..." if len(chosen) > _MOST_NAMES else "")

    indices = batch.get("index")
    index = pick([str(int(each)) for each in indices]) if indices is not None else ""
    return (pick(_file_names(batch)) or "a batch without file names") + (f" (index {index})" if index else "")


class NonFiniteGuard:
    """
    Stop with one clear line at the first loss that is NaN or infinite, before it reaches the weights.

    The line names step, epoch and files, and what went bad first: the image, the weights, the network's output or the
    loss. Only the loss is watched, since a gradient scaler meets infinite gradients in normal work and skips them.
    `AtomicCheckpointSaver` refuses weights that are not finite, so the last good checkpoint stays. ignite's
    ``TerminateOnNan`` has no ``attach``, names no file and ends the process with success.

    Raises:
        DataError: from the trainer's ``run``.

    Example:
        >>> handlers = [NonFiniteGuard()]  # among the handlers of a SupervisedTrainer
    """

    def attach(self, engine: Engine) -> None:
        """Watch the losses of a MONAI trainer."""
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        output = engine.state.output
        loss = output[CommonKeys.LOSS].detach()
        if bool(torch.isfinite(loss).all()):
            return
        place = f"step {engine.state.iteration}, epoch {engine.state.epoch}: the loss is {float(loss)}"
        batch = engine.state.batch
        if rows := _bad_rows(output.get(CommonKeys.IMAGE)):
            raise DataError(f"{place}, the image holds NaN or infinity: {describe_batch(batch, rows)}")
        if (parameter := first_non_finite(unwrap(engine.network))) is not None:
            raise DataError(f"{place}, the weights are already not finite ({parameter}); {describe_batch(batch)}")
        rows = _bad_rows(output.get(CommonKeys.PRED)) or None
        raise DataError(f"{place}, image and weights are finite: {describe_batch(batch, rows)}")
