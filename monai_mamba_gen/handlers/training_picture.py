"""A picture every few epochs of what a network makes while it learns."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.networks import eval_mode

from ..utils.distributed import is_main_process
from ..utils.image_grid import SYNTHETIC_MARKS, save_png
from .non_finite_guard import unwrap
from .tracking import track_pictures

__all__ = ["TrainingPicture"]


class TrainingPicture(ABC):
    """
    Base of the handlers that draw what a network makes, every few epochs and after the last.

    A subclass says in `draw` what is seen. The training is not disturbed: the network's mode is put back and PyTorch's
    global generators are kept. Only rank 0 draws, so the network should not be one that talks to other ranks;
    DistributedDataParallel is unwrapped.

    Args:
        network: network to draw with, normally the EMA network.
        interval: epochs between pictures; the last epoch is always shown.
        output_dir: pictures go to ``samples/epoch_0005.png`` below it.
        log_dir: also write the picture for TensorBoard here.

    Attributes:
        marks: text chunks of the picture's file.
        patients: whether the picture shows patients, and so leaves the machine in no way; see `track_pictures`.

    Raises:
        ValueError: when interval is below 1.
    """

    marks: Mapping[str, str] = SYNTHETIC_MARKS
    patients: bool = False

    def __init__(
        self,
        network: torch.nn.Module,
        interval: int,
        output_dir: str | os.PathLike[str],
        log_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        if interval < 1:
            raise ValueError(f"interval must be at least 1, got {interval}")
        self.network = unwrap(network)
        self.interval = interval
        self.output_dir = Path(output_dir)
        self.log_dir = log_dir

    @abstractmethod
    def draw(self, device: torch.device) -> np.ndarray:
        """Return a uint8 picture (rows, columns), made on ``device``, where the network is."""

    def attach(self, engine: Engine) -> None:
        """Write pictures at the end of epochs of ``engine``."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        if not is_main_process() or (epoch % self.interval and epoch != engine.state.max_epochs):
            return
        device = next(self.network.parameters()).device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), eval_mode(self.network):
            picture = self.draw(device)
        path = self.output_dir / "samples" / f"epoch_{epoch:04d}.png"
        save_png(path, picture, self.marks)
        track_pictures(engine, [path], "samples", self.patients)
        if self.log_dir is not None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, and only needed here

            with SummaryWriter(str(self.log_dir)) as writer:
                writer.add_image("samples", picture, epoch, dataformats="HW")
