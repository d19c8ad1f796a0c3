"""What MONAI's engines need for diffusion training that gives the same numbers on any number of processes."""

from __future__ import annotations

from .cine_inference_batch import CineInferenceBatch
from .cine_prepare_batch import CinePrepareBatch
from .prepare_batch import SeededDiffusionPrepareBatch
from .trainable import trainable

__all__ = ["CineInferenceBatch", "CinePrepareBatch", "SeededDiffusionPrepareBatch", "trainable"]
