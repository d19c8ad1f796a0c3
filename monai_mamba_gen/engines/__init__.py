"""What MONAI's engines need for diffusion training that gives the same numbers on any number of processes."""

from __future__ import annotations

from .prepare_batch import SeededDiffusionPrepareBatch

__all__ = ["SeededDiffusionPrepareBatch"]
