"""Make every epoch and step start from random states that depend on the seed and its number alone."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd

from ..networks.blocks import seed_scan_orders
from ..utils.distributed import get_rank
from ..utils.seeding import derive_seed

__all__ = ["ReproducibilityHandler"]


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


class ReproducibilityHandler:
    """
    Seed each epoch and step from ``(seed, number)``, so that a resumed training equals the uninterrupted one.

    At the start of an epoch: PyTorch's, NumPy's and Python's global generators are seeded (each rank its own stream;
    dropout, workers and the shuffling of plain samplers follow), then ``set_epoch`` of datasets and samplers is called,
    or MONAI's ``set_rnd`` for datasets that have none. ignite makes the epoch's iterator after that. At the start of a
    step: the step is passed to the prepare-batch and the scan orders of the network are seeded, alike on all ranks.
    May also be attached to an evaluator, which makes every validation draw the same scan orders.

    Args:
        seed: names the streams.
        prepare_batch: object with ``set_step``, such as ``SeededDiffusionPrepareBatch``.
        network: network, or list of networks, whose random scan orders are seeded.
        datasets: dataset or list of datasets whose random transforms follow the epoch.
        samplers: sampler or list of samplers with ``set_epoch``.

    Raises:
        ValueError: at the start of a run, when the data loader keeps its workers alive between epochs, since these
            would go on with the random state of the first epoch.

    Example:
        >>> trainer = Engine(lambda engine, batch: torch.rand(1).item())
        >>> ReproducibilityHandler(seed=0).attach(trainer)
        >>> first = trainer.run([0, 1], max_epochs=2).output
        >>> first == trainer.run([0, 1], max_epochs=2).output
        True
    """

    def __init__(
        self,
        seed: int,
        prepare_batch: Any = None,
        network: torch.nn.Module | Iterable[torch.nn.Module] | None = None,
        datasets: Any = (),
        samplers: Any = (),
    ) -> None:
        self.seed = seed
        self.prepare_batch = prepare_batch
        self.networks = [] if network is None else _as_list(network)
        self.datasets = _as_list(datasets)
        self.samplers = _as_list(samplers)

    def attach(self, engine: Engine) -> None:
        """Seed the epochs and steps of ``engine``; list this handler first."""
        engine.add_event_handler(Events.STARTED, self._check_workers)
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.ITERATION_STARTED, self._start_step)

    def _check_workers(self, engine: Engine) -> None:
        if getattr(engine.state.dataloader, "persistent_workers", False):
            raise ValueError("persistent_workers must be False, got True: epochs could not be repeated after a resume")

    def _start_epoch(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        seed = derive_seed(self.seed, "epoch", epoch, get_rank())
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        for sampler in self.samplers:
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
        for dataset in self.datasets:
            if hasattr(dataset, "set_epoch"):
                dataset.set_epoch(epoch)
            else:
                set_rnd(dataset, seed=seed % 2**32)
        loader, length = engine.state.dataloader, engine.state.epoch_length
        if length is not None and hasattr(loader, "__len__") and len(loader) != length:
            # ignite keeps the iterator of the epoch before when epochs are not whole passes over the data
            engine.set_data(loader)

    def _start_step(self, engine: Engine) -> None:
        step = engine.state.iteration
        if self.prepare_batch is not None:
            self.prepare_batch.set_step(step)
        for network in self.networks:
            seed_scan_orders(network, derive_seed(self.seed, "scan", step))
