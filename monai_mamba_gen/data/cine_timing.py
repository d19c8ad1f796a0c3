"""How many seconds lie between the frames of a synthetic cine."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["frame_interval"]


def frame_interval(
    phases: Sequence[float],
    seconds_per_frame: float | None = None,
    ed_frame: int | None = None,
    es_frame: int | None = None,
    num_frames: int | None = None,
    seconds_per_beat: float | None = 1.0,
) -> float | None:
    """
    Return the seconds between two frames of a synthetic cine, None where they cannot be known.

    Frames from end diastole (phase 0) to end systole (phase 1, the last) share the time between these two frames of the
    source. Frames of a beat, whose last comes after end systole, share the whole cycle: the source's own where it is
    known, else ``seconds_per_beat``.

    Args:
        phases: phase of each frame.
        seconds_per_frame: of the source; None, 0 or NaN: unknown.
        ed_frame: number of the source's frame at end diastole.
        es_frame: the same at end systole; before ``ed_frame`` where systole runs over the end of the cycle.
        num_frames: frames in the source's cycle.
        seconds_per_beat: cycle to assume where the source's is unknown.

    Example:
        >>> frame_interval([0, 0.5, 1], 0.04, ed_frame=1, es_frame=11)
        0.2
        >>> frame_interval([0, 1, 0.6, 0.2], seconds_per_beat=0.8)
        0.2
    """
    count, known = len(phases), _positive(seconds_per_frame)
    if count < 2:
        return None
    if max(range(count), key=lambda index: phases[index]) < count - 1:
        period = known * num_frames if known and num_frames and num_frames > 1 else _positive(seconds_per_beat)
        return None if period is None else period / count
    rising = all(before <= after for before, after in zip(phases[:-1], phases[1:], strict=True))
    if known is None or ed_frame is None or es_frame is None or not rising or phases[0] > 0 or phases[-1] < 1:
        return None
    steps = es_frame - ed_frame
    if steps <= 0:
        steps = steps % num_frames if num_frames and num_frames > 1 else 0
    return steps * known / (count - 1) if steps > 0 else None


def _positive(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) and value > 0 else None
