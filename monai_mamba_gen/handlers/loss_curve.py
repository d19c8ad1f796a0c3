"""Loss curves as a PNG, drawn with Pillow alone."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..utils.image_grid import save_png

__all__ = ["draw_loss_curve"]

_SIZE = (800, 480)
_BOX = (90, 40, 770, 410)  # left, top, right, bottom of the plot in pixels
_COLOURS = ((31, 119, 180), (214, 96, 20), (44, 140, 60), (150, 60, 160), (120, 120, 120))


def _series(records: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Return the points of each loss that are finite."""
    names = dict.fromkeys(name for record in records for name in record if name.endswith("loss"))
    series = {name: [(r["epoch"], r[name]) for r in records if name in r and math.isfinite(r[name])] for name in names}
    return {name: points for name, points in series.items() if points}


def _log_ticks(low: float, high: float) -> list[float]:
    """Return tick values at 1, 2, 5 times powers of ten within the range, or even steps where it holds few of them."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [value for power in powers for digit in (1, 2, 5) if low <= (value := digit * 10.0**power) <= high]
    return ticks if len(ticks) > 2 else [low * (high / low) ** (step / 4) for step in range(1, 4)]


def _range(values: Sequence[float], logarithmic: bool) -> tuple[float, float]:
    """Return the ends of the axis, a little beyond the values."""
    low, high = min(values), max(values)
    if logarithmic:
        return low / 1.15, high * 1.15
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _even_ticks(low: float, high: float) -> list[float]:
    step = 10.0 ** math.floor(math.log10(high - low))
    step = next(step * part for part in (0.1, 0.2, 0.5, 1, 2) if (high - low) / (step * part) <= 8)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _epoch_ticks(first: int, last: int) -> list[int]:
    span = max(last - first, 1)
    base = 10 ** math.floor(math.log10(span))
    step = max(1, int(next(s for s in (base / 5, base / 2, base, 2 * base) if span / s <= 10)))
    return list(range(math.ceil(first / step) * step, last + 1, step))


def draw_loss_curve(records: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """
    Draw every entry whose name ends in "loss" over the epoch, and write it as PNG.

    The axis of the losses is logarithmic, or linear where one of them is not positive.

    Args:
        records: one mapping an epoch with ``"epoch"`` and losses. Nothing is drawn when no loss is finite.
        path: PNG to write.
    """
    series = _series(records)
    if not series:
        return
    points = [point for each in series.values() for point in each]
    first, last = min(epoch for epoch, _ in points), max(epoch for epoch, _ in points)
    values = [value for _, value in points]
    logarithmic = min(values) > 0
    low, high = _range(values, logarithmic)
    left, top, right, bottom = _BOX

    def place(epoch: float, value: float) -> tuple[float, float]:
        x = left + (right - left) * (epoch - first) / max(last - first, 1)
        share = math.log(value / low) / math.log(high / low) if logarithmic else (value - low) / (high - low)
        return x, bottom - (bottom - top) * share

    canvas = Image.new("RGB", _SIZE, "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=14)
    for value in _log_ticks(low, high) if logarithmic else _even_ticks(low, high):
        y = place(first, value)[1]
        draw.line((left, y, right, y), fill=(225, 225, 225))
        draw.text((left - 8, y), f"{value:.3g}", fill="black", font=font, anchor="rm")
    for epoch in _epoch_ticks(first, last):
        x = place(epoch, low)[0]
        draw.line((x, bottom, x, bottom + 5), fill="black")
        draw.text((x, bottom + 8), str(epoch), fill="black", font=font, anchor="mt")
    draw.rectangle(_BOX, outline="black")
    draw.text(((left + right) / 2, bottom + 35), "epoch", fill="black", font=font, anchor="mt")
    draw.text((left, top - 10), "loss (log scale)" if logarithmic else "loss", fill="black", font=font, anchor="lb")
    for number, (name, curve) in enumerate(series.items()):
        colour, spots = _COLOURS[number % len(_COLOURS)], [place(*point) for point in curve]
        if len(spots) > 1:
            draw.line(spots, fill=colour, width=2, joint="curve")
        if len(spots) <= 60:
            for x, y in spots:
                draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
        y = top + 16 + 20 * number
        draw.line((right - 210, y, right - 180, y), fill=colour, width=3)
        draw.text((right - 172, y), f"{name} {curve[-1][1]:.4g}", fill="black", font=font, anchor="lm")
    save_png(path, np.asarray(canvas))
