"""The scale of a latent space, measured before its weights are saved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Protocol

import torch
from ignite.engine import Engine, Events

from .non_finite_guard import unwrap

__all__ = ["LatentScaleHandler"]


class _LatentSpace(Protocol):
    scale_factor: torch.Tensor
    measure_scale: Callable[[Iterable[torch.Tensor]], float]


class LatentScaleHandler:
    """
    Measure the scale of latent spaces at the end of epochs, so that no checkpoint lacks it or holds an old one.

    List it before `AtomicCheckpointSaver`, with the same ``interval``, and after `EMA` and `ResumeHandler`. Give it
    the averaged network, which goes to ``model.pt``, and the trained one. At the start of a run the scales that are
    still unknown are measured on one batch, so that a checkpoint, or the watch for NaN, never meets NaN.

    Reading the data does not move PyTorch's global random numbers.

    Args:
        latent_space: one `LatentSpace`, or several; each is measured with its own weights.
        dataloader: batches to measure on, normally those of the training.
        prepare_batch: makes ``(images, ...)`` of a batch, such as `AutoencoderPrepareBatch`.
        max_batches: number of batches to measure on, for every process; None: all of them.
        interval: epochs between measurements; the last epoch is always measured.

    Raises:
        ValueError: when ``max_batches`` or ``interval`` is below 1.

    Example:
        >>> class Latents:  # as LatentSpace
        ...     scale_factor = torch.tensor(float("nan"))
        ...     def measure_scale(self, batches):
        ...         return float(self.scale_factor.fill_(1 / float(torch.cat(list(batches)).std())))
        >>> engine = Engine(lambda engine, batch: None)
        >>> latents = Latents()
        >>> LatentScaleHandler(latents, [torch.tensor([-2.0, 0.0, 2.0])], lambda batch, device: (batch,)).attach(engine)
        >>> engine.run([0], max_epochs=1).metrics
        {'latent_scale': 0.5}
    """

    def __init__(
        self,
        latent_space: _LatentSpace | Iterable[_LatentSpace],
        dataloader: Iterable[Any],
        prepare_batch: Callable[..., Any],
        max_batches: int | None = 64,
        interval: int = 1,
    ) -> None:
        for name, value in {"max_batches": max_batches, "interval": interval}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        spaces = list(latent_space) if isinstance(latent_space, (list, tuple)) else [latent_space]
        self.latent_spaces: list[_LatentSpace] = [unwrap(each) for each in spaces]
        self.dataloader, self.prepare_batch = dataloader, prepare_batch
        self.max_batches, self.interval = max_batches, interval

    def attach(self, engine: Engine) -> None:
        """Measure at the start and at the end of the epochs of ``engine``; list before the checkpoint saver."""
        engine.add_event_handler(Events.STARTED, self._first)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def _images(self, device: torch.device, most: int | None) -> Iterator[torch.Tensor]:
        for batch in islice(iter(self.dataloader), most):
            yield self.prepare_batch(batch, device)[0]

    def _measure(self, latent_space: _LatentSpace, most: int | None) -> float:
        with torch.random.fork_rng(devices=[]), torch.autocast(latent_space.scale_factor.device.type, enabled=False):
            return latent_space.measure_scale(self._images(latent_space.scale_factor.device, most))

    def _first(self, engine: Engine) -> None:
        for latent_space in self.latent_spaces:
            if not bool(torch.isfinite(latent_space.scale_factor)):
                self._measure(latent_space, 1)

    def __call__(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        if epoch % self.interval and epoch != engine.state.max_epochs:
            return
        scales = [self._measure(latent_space, self.max_batches) for latent_space in self.latent_spaces]
        engine.state.metrics["latent_scale"] = scales[0]
