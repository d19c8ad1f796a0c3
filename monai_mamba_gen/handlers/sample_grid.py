"""Pictures of what the network generates while it learns."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from ignite.engine import Engine, Events
from monai.networks import eval_mode

from ..utils.distributed import is_main_process
from ..utils.image_grid import SYNTHETIC_MARKS, image_grid, save_png
from .non_finite_guard import unwrap
from .tracking import track_pictures

__all__ = ["SampleGridHandler"]


class SampleGridHandler:
    """
    Generate from the same seeds every few epochs and write the images as one picture.

    The training is not disturbed: the network's mode is put back and PyTorch's global generators are kept. Only rank 0
    samples, so the network should not be one that talks to other ranks; DistributedDataParallel is unwrapped.

    Args:
        sampler: called as ``sampler(inputs, network, seeds=seeds)``, returns (N, C, H, W) in [-1, 1].
        network: network to sample from, normally the EMA network.
        shape: (C, H, W) of one image.
        seeds: one seed per image.
        interval: epochs between pictures; the last epoch is always shown.
        output_dir: pictures go to ``samples/epoch_0005.png`` below it.
        log_dir: also write the picture for TensorBoard here.

    Raises:
        ValueError: when seeds is empty, shape is not (C, H, W) or interval is below 1.

    Example:
        >>> import tempfile
        >>> grid = SampleGridHandler(lambda x, net, seeds: x, torch.nn.Conv2d(1, 1, 1), (1, 8, 8), [0, 1], 1,
        ...                          tempfile.mkdtemp())
        >>> trainer = Engine(lambda engine, batch: None)
        >>> grid.attach(trainer)
        >>> _ = trainer.run([0])
        >>> os.listdir(grid.output_dir / "samples")
        ['epoch_0001.png']
    """

    def __init__(
        self,
        sampler: Callable[..., torch.Tensor],
        network: torch.nn.Module,
        shape: Sequence[int],
        seeds: Sequence[int],
        interval: int,
        output_dir: str | os.PathLike[str],
        log_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        if len(shape) != 3 or len(seeds) == 0 or interval < 1:
            raise ValueError(
                "shape must be (C, H, W), seeds not empty and interval at least 1, "
                f"got {tuple(shape)}, {list(seeds)} and {interval}"
            )
        self.sampler = sampler
        self.network = unwrap(network)
        self.shape = tuple(shape)
        self.seeds = list(seeds)
        self.interval = interval
        self.output_dir = Path(output_dir)
        self.log_dir = log_dir

    def attach(self, engine: Engine) -> None:
        """Write pictures at the end of epochs of ``engine``."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        if not is_main_process() or (epoch % self.interval and epoch != engine.state.max_epochs):
            return
        device = next(self.network.parameters()).device
        inputs = torch.zeros(len(self.seeds), *self.shape, device=device)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), eval_mode(self.network):
            images = self.sampler(inputs, self.network, seeds=self.seeds)
        picture = image_grid(images[:, :1])
        path = self.output_dir / "samples" / f"epoch_{epoch:04d}.png"
        save_png(path, picture, SYNTHETIC_MARKS)
        track_pictures(engine, [path], "samples")
        if self.log_dir is not None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, and only needed here

            with SummaryWriter(str(self.log_dir)) as writer:
                writer.add_image("samples", picture, epoch, dataformats="HW")
