"""Inferers for MONAI's evaluators and MONAI Label."""

from __future__ import annotations

from .cine import CineInferer
from .intensity_baseline import IntensityBaseline
from .phases import PHASE_CURVES, phase_curve
from .sampling import SamplingInferer
from .translation import TranslationInferer
from .translator import translator_or_baseline

__all__ = [
    "PHASE_CURVES",
    "CineInferer",
    "IntensityBaseline",
    "SamplingInferer",
    "TranslationInferer",
    "phase_curve",
    "translator_or_baseline",
]
