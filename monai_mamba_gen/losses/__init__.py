"""Losses that MONAI lacks."""

from __future__ import annotations

from .deformable_diffusion import DeformableDiffusionLoss

__all__ = ["DeformableDiffusionLoss"]
