"""Inferers for MONAI's evaluators and MONAI Label."""

from __future__ import annotations

from .cine import CineInferer
from .phases import PHASE_CURVES, phase_curve
from .sampling import SamplingInferer

__all__ = ["PHASE_CURVES", "CineInferer", "SamplingInferer", "phase_curve"]
