"""Exponential moving average of the weights, with a warm-up that survives a resume."""

from __future__ import annotations

import torch
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler

__all__ = ["EMA"]


class EMA(EMAHandler):
    """
    Keep an exponential moving average of a network's weights in ``ema_model``.

    ignite's ``EMAHandler`` with three differences. The warm-up is a function of the iteration alone, so that a resumed
    training continues it (ignite's starts over). Buffers are copied by value (with ``handle_buffers="copy"`` ignite's
    share memory with the network, and ``"update"`` does so for integers). The decay is given as such, not as
    ``momentum = 1 - decay``.

    When a run starts and the network's weights were replaced since the last one, as a federated client does at every
    round, the average starts anew from them, with its warm-up: an average with the weights of an earlier round would
    be neither the server's model nor the client's.

    Args:
        network: network to follow, already on its device; DistributedDataParallel is unwrapped.
        decay: weight of the old average in ``(0, 1)``.
        warmup: use ``min(decay, (1 + iteration) / (10 + iteration))``, so that a short training does not keep its
            random start; the iteration is counted from where the average started.

    Attributes:
        ema_model: the averaged network, in eval mode and without gradients. Save it in checkpoints as ``"ema"``.

    Raises:
        ValueError: when decay is outside ``(0, 1)``.

    Example:
        >>> network = torch.nn.Linear(2, 1)
        >>> ema = EMA(network, decay=0.999)
        >>> ema.decay_at(1), ema.decay_at(100000)
        (0.18181818181818182, 0.999)
    """

    def __init__(self, network: torch.nn.Module, decay: float = 0.9999, warmup: bool = True) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"decay must be in (0, 1), got {decay}")
        super().__init__(network, momentum=1 - decay, handle_buffers="update")
        self.ema_model.requires_grad_(False)
        self.decay = decay
        self.warmup = warmup
        self._start = 0
        self._seen: list[int] | None = None

    def decay_at(self, iteration: int) -> float:
        """Return the decay used after an iteration, counted from 1."""
        return min(self.decay, (1 + iteration) / (10 + iteration)) if self.warmup else self.decay

    def attach(self, engine: Engine, *args: object, **kwargs: object) -> None:
        """Update the average after every iteration of ``engine``; list this handler after the one that resumes."""
        engine.add_event_handler(Events.STARTED, self._synchronise)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)

    def _versions(self) -> list[int]:
        """Return PyTorch's counts of the changes of each parameter in place."""
        return [parameter._version for parameter in self.model.parameters()]

    @torch.no_grad()
    def _synchronise(self, engine: Engine) -> None:
        replaced = self._seen is not None and self._seen != self._versions()
        if replaced or engine.state.iteration == 0:
            self._start = engine.state.iteration
            for average, value in zip(self.ema_model.parameters(), self.model.parameters(), strict=True):
                average.copy_(value)
            self._copy_buffers()
        self._seen = self._versions()

    @torch.no_grad()
    def _update(self, engine: Engine) -> None:
        decay = self.decay_at(engine.state.iteration - self._start)
        for average, parameter in zip(self.ema_model.parameters(), self.model.parameters(), strict=True):
            average.lerp_(parameter, 1 - decay)
        self._copy_buffers()
        self._seen = self._versions()

    def _copy_buffers(self) -> None:
        for average, buffer in zip(self.ema_model.buffers(), self.model.buffers(), strict=True):
            average.copy_(buffer)
