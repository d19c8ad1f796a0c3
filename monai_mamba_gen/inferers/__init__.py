"""Inferers for MONAI's evaluators and MONAI Label."""

from __future__ import annotations

from .sampling import SamplingInferer

__all__ = ["SamplingInferer"]
