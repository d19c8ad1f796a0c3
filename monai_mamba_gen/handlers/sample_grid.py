"""Pictures of what the network generates while it learns."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np
import torch

from ..utils.image_grid import image_grid
from .training_picture import TrainingPicture

__all__ = ["SampleGridHandler"]


class SampleGridHandler(TrainingPicture):
    """
    Generate from the same seeds every few epochs and write the images as one picture, see `TrainingPicture`.

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
        >>> from ignite.engine import Engine
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
        if len(shape) != 3 or len(seeds) == 0:
            raise ValueError(f"shape must be (C, H, W) and seeds not empty, got {tuple(shape)} and {list(seeds)}")
        super().__init__(network, interval, output_dir, log_dir)
        self.sampler = sampler
        self.shape = tuple(shape)
        self.seeds = list(seeds)

    def draw(self, device: torch.device) -> np.ndarray:
        """Return the images of all seeds as a grid."""
        inputs = torch.zeros(len(self.seeds), *self.shape, device=device)
        return image_grid(self.sampler(inputs, self.network, seeds=self.seeds)[:, :1])
