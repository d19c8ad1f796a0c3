"""What translates the volumes of an evaluation: a model, or a baseline that needs none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .intensity_baseline import IntensityBaseline
from .translation import TranslationInferer

__all__ = ["translator_or_baseline"]

_BASELINES = ("identity", "map")
_KEYS = {"ct2mr": ("image", "target"), "mr2ct": ("target", "image")}


def translator_or_baseline(
    model: str,
    translator: TranslationInferer,
    training_slices: Callable[[], Sequence[Mapping[str, Any]]],
    direction: str = "ct2mr",
) -> TranslationInferer | IntensityBaseline:
    """
    Return the baseline of that name, fitted where it has to be, or else the translator; for configs.

    Args:
        model: "identity" or "map", see `IntensityBaseline`; any other name is that of a network.
        translator: what runs a network.
        training_slices: called for the slices to fit on, where they are needed: reading them takes time.
        direction: "ct2mr" or "mr2ct".

    Raises:
        ValueError: when the direction is none.

    Example:
        >>> translator_or_baseline("identity", None, list).mode
        'identity'
    """
    if direction not in _KEYS:
        raise ValueError(f"direction must be one of {tuple(_KEYS)}, got {direction!r}")
    if model not in _BASELINES:
        return translator
    baseline = IntensityBaseline(model)
    baseline.direction = direction  # what reports and savers ask a translator for
    return baseline.fit(training_slices(), *_KEYS[direction]) if model == "map" else baseline
