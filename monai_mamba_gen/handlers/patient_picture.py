"""Pictures of what an inferer makes of held-out patients while the network learns."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.inferers import Inferer

from .training_picture import TrainingPicture

__all__ = ["PatientPicture"]


class PatientPicture(TrainingPicture):
    """
    Base of the handlers that draw what is made of patients, see `TrainingPicture`.

    Args:
        inferer: what runs the network.
        network: network to draw with, normally the EMA network.
        dataset: items to choose from, those held out.
        num_images: number of items to draw.
        interval: epochs between pictures; the last epoch is always shown.
        output_dir: pictures go to ``samples/epoch_0005.png`` below it.
        log_dir: also write the picture for TensorBoard here.

    Raises:
        ValueError: when num_images or interval is below 1, or the data set is empty.
    """

    patients = True

    def __init__(
        self,
        inferer: Inferer,
        network: torch.nn.Module,
        dataset: Sequence[Mapping[str, Any]],
        num_images: int,
        interval: int,
        output_dir: str | os.PathLike[str],
        log_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        if num_images < 1 or len(dataset) == 0:
            raise ValueError(f"num_images must be at least 1 and dataset not empty, got {num_images}, {len(dataset)}")
        super().__init__(network, interval, output_dir, log_dir)
        self.inferer = inferer
        self.dataset = dataset
        self.num_images = num_images
