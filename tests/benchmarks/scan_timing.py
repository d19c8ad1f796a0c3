"""Timing of contenders that take turns, so that what else the machine does meets all of them alike."""

from __future__ import annotations

import gc
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Contender", "Timings", "cpu_name", "interleave", "load_average"]

_MAX_CALLS = 15


@dataclass(frozen=True)
class Contender:
    """
    Something to be timed.

    ``run`` is timed from outside, unless it returns a float: that is then the time in seconds. ``warm``: whether one
    call goes ahead of the rounds; the slowest contenders do without.
    """

    name: str
    run: Callable[[], object]
    warm: bool = True


class Timings:
    """Seconds of each contender in each round."""

    def __init__(self, seconds: dict[str, list[float]]) -> None:
        self.seconds = seconds
        self.rounds = min(len(values) for values in seconds.values())

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def milliseconds(self, *names: str) -> str:
        return ", ".join(f"{name} {self.median(name) * 1e3:.3g} ms" for name in names)

    def ratio(self, slow: str, fast: str) -> float:
        """Median over the rounds of the ratio within a round."""
        pairs = zip(self.seconds[slow], self.seconds[fast], strict=True)
        return statistics.median(a / b for a, b in pairs)

    def fastest(self, names: Iterable[str]) -> str:
        return min(names, key=self.median)


def _seconds(run: Callable[[], object]) -> tuple[float, float]:
    """Time of one call as it counts, and by the wall clock."""
    start = time.perf_counter()
    result = run()
    wall = time.perf_counter() - start
    return (result if isinstance(result, float) else wall), wall


def interleave(contenders: Sequence[Contender], rounds: int, fill: float = 0.1) -> Timings:
    """
    Time contenders in turn.

    In each round each contender runs once, a quick one as often as fills ``fill`` seconds (at most 15 times); the
    median of those calls is its time in that round. So the first call after a contender that has emptied the caches
    does not decide.
    """
    calls: dict[str, int] = {}
    for contender in contenders:
        wall = _seconds(contender.run)[1] if contender.warm else math.inf
        calls[contender.name] = max(1, min(_MAX_CALLS, math.ceil(fill / wall)))
    seconds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for _ in range(rounds):
        for contender in contenders:
            gc.collect()
            taken = [_seconds(contender.run)[0] for _ in range(calls[contender.name])]
            seconds[contender.name].append(statistics.median(taken))
    return Timings(seconds)


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown CPU"


def load_average() -> str:
    """Load of the last minute: 0.1 means an idle machine, 2 that two other programs run."""
    return f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown"
