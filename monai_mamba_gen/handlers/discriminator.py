"""The discriminator's own step in the training of an autoencoder."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys

from ..utils.distributed import get_world_size
from ..utils.errors import DataError

__all__ = ["DiscriminatorHandler"]


class DiscriminatorHandler:
    """
    Train a discriminator after every step of a ``SupervisedTrainer``, on the reconstructions of that step.

    The gradients are averaged over the processes, so the discriminator needs no DistributedDataParallel. Save
    discriminator and optimizer with the other states, so that a resumed training goes on with them.

    Args:
        adversary: `PatchAdversary`, the same that the loss asks.
        optimizer: of the discriminator's parameters alone.
        warm_up_epochs: epochs before the discriminator is trained and asked.

    Raises:
        DataError: from the trainer's ``run``, when the discriminator's loss is not finite.
        ValueError: when ``warm_up_epochs`` is negative.

    Example:
        >>> from monai_mamba_gen.losses import PatchAdversary
        >>> adversary = PatchAdversary(torch.nn.Conv2d(1, 1, 3))
        >>> optimizer = torch.optim.Adam(adversary.discriminator.parameters())
        >>> handlers = [DiscriminatorHandler(adversary, optimizer)]  # of a SupervisedTrainer
    """

    def __init__(self, adversary: Any, optimizer: torch.optim.Optimizer, warm_up_epochs: int = 0) -> None:
        if warm_up_epochs < 0:
            raise ValueError(f"warm_up_epochs must not be negative, got {warm_up_epochs}")
        self.adversary, self.optimizer, self.warm_up_epochs = adversary, optimizer, warm_up_epochs
        self._losses: list[float] = []

    def attach(self, engine: Engine) -> None:
        """Train after the iterations of ``engine``."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._record)

    def _start_epoch(self, engine: Engine) -> None:
        self.adversary.active = engine.state.epoch > self.warm_up_epochs
        self._losses = []

    def __call__(self, engine: Engine) -> None:
        if not self.adversary.active:
            return
        reconstruction, images = engine.state.output[CommonKeys.PRED][0], engine.state.output[CommonKeys.IMAGE]
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.adversary.discriminator_loss(reconstruction.float(), images.float())
        if not bool(torch.isfinite(loss.detach())):
            raise DataError(
                f"step {engine.state.iteration}, epoch {engine.state.epoch}: the discriminator's loss is {float(loss)}"
            )
        loss.backward()
        if get_world_size() > 1:
            for parameter in self.adversary.discriminator.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= get_world_size()
        self.optimizer.step()
        self._losses.append(float(loss.detach()))

    def _record(self, engine: Engine) -> None:
        if self._losses:
            engine.state.metrics["discriminator_loss"] = sum(self._losses) / len(self._losses)
