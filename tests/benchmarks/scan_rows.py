"""The rows of the table that scan.py prints: what is measured, and the bar it is held against."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import scan_accuracy
import scan_contenders as contenders
import scan_image as image
import scan_memory
from scan_contenders import Scan, Shape
from scan_timing import Contender, Timings, interleave

from monai_mamba_gen.ops import cross_scan_orders, native_module

__all__ = ["ROWS", "Figure", "Result", "Session", "agreement"]


@dataclass(frozen=True)
class Figure:
    """A measured number, and the least or the most it should be; neither where it is only reported."""

    value: float
    label: str = ""
    least: float | None = None
    most: float | None = None

    @property
    def met(self) -> bool:
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)


@dataclass(frozen=True)
class Result:
    """What a row shows."""

    figures: Sequence[Figure]
    rounds: int | str
    note: str


@dataclass
class Session:
    """What the rows share: the settings, the shapes, and measurements that several rows read."""

    rows: Sequence[int]
    quick: bool
    threads: int
    wanted_rounds: int | None

    def __post_init__(self) -> None:
        self.s1 = Shape(2, 4, 6, 64, 4) if self.quick else Shape(4, 4, 192, 1024, 16)
        self.s4 = Shape(1, 4, 6, 256, 4) if self.quick else Shape(1, 4, 96, 16384, 16)
        self.side = 8 if self.quick else 32

    def rounds(self, usual: int) -> int:
        return self.wanted_rounds or (2 if self.quick else usual)

    def time(self, runs: Sequence[Contender], usual_rounds: int) -> Timings:
        return interleave(runs, self.rounds(usual_rounds), fill=0.0 if self.quick else 0.1)

    @functools.cached_property
    def levels(self) -> list[str]:
        """Instruction sets that rows 1 to 3 measure: those that have a bar, else the fastest."""
        if native_module.native_problem() is not None:
            raise RuntimeError("the native kernel cannot be used, see above")
        usable = native_module.instruction_sets()
        return [level for level in usable if level in ("avx512", "avx2")] or usable[:1]

    @functools.cached_property
    def s1_inputs(self):
        return contenders.draw_inputs(self.s1)

    @functools.cached_property
    def s1_training(self) -> Timings:
        """One interleaved measurement of forward and backward pass for rows 1, 5 and 10."""
        scans = []
        if native_module.native_problem() is None:
            levels = self.levels if 1 in self.rows else []
            levels = levels + ["base"] if 10 in self.rows and "base" not in levels else levels
            scans = [contenders.native(self.s1_inputs, level) for level in levels]
        if 5 in self.rows:
            scans.append(contenders.ours(self.s1_inputs, "torch"))
        scans += [contenders.mambapy_all(self.s1_inputs), contenders.mambapy_each(self.s1_inputs)]
        return self.time([scan.training() for scan in scans], 5)


def agreement() -> str:
    """How far the contenders' results lie apart at a small shape, over the largest value."""
    shape = Shape(2, 4, 6, 16, 5)
    inputs = contenders.draw_inputs(shape)
    makers: list[Callable[[], Scan]] = [
        functools.partial(maker, inputs)
        for maker in (contenders.peer_ref, contenders.mambapy_all, contenders.mambapy_each)
    ]
    makers += [functools.partial(contenders.ours, inputs, backend) for backend in ("native", "torch")]
    expected, worst = contenders.ours(inputs, "reference").compute(), 0.0
    for make in makers:
        try:
            actual = make().compute()
        except (ImportError, ValueError):  # not installed, not usable here: the rows that need it will say so
            continue
        worst = max(worst, ((actual - expected).abs().max() / expected.abs().max()).item())
    return f"contenders agree within {worst:.1g} of the largest value at {tuple(shape)}"


def _mambapy(timings: Timings) -> str:
    """The faster of mambapy's two paths."""
    return timings.fastest(name for name in timings.seconds if name.startswith("mambapy"))


def _against(timings: Timings, peer: str, bars: dict[str, float], levels: Sequence[str]) -> list[Figure]:
    return [Figure(timings.ratio(peer, f"ours ({level})"), level, least=bars.get(level)) for level in levels]


def row_1(session: Session) -> Result:
    levels, timings = session.levels, session.s1_training
    figures = _against(timings, _mambapy(timings), {"avx512": 100, "avx2": 70}, levels)
    names = [name for name in timings.seconds if name.startswith("mambapy")] + [f"ours ({level})" for level in levels]
    return Result(figures, timings.rounds, timings.milliseconds(*names))


def row_2(session: Session) -> Result:
    scans = [contenders.native(session.s1_inputs, level) for level in session.levels]
    peer = contenders.peer_ref(session.s1_inputs)
    timings = session.time([scan.forward() for scan in (*scans, peer)], 5)
    figures = _against(timings, peer.name, {"avx512": 150, "avx2": 110}, session.levels)
    return Result(figures, timings.rounds, timings.milliseconds(*timings.seconds))


def row_3(session: Session) -> Result:
    inputs = contenders.draw_inputs(session.s4)
    scans = [contenders.native(inputs, level).training() for level in session.levels]
    peers = [make(inputs).training(warm=False) for make in (contenders.mambapy_all, contenders.mambapy_each)]
    slow = session.time([*scans, *peers], 2)
    figures = _against(slow, _mambapy(slow), {"avx512": 120, "avx2": 85}, session.levels)
    level = session.levels[0]
    both = {"S4": inputs, "S1": session.s1_inputs}
    runs = [Contender(name, contenders.native(m, level).training().run) for name, m in both.items()]
    quick = session.time(runs, 9)
    figures.append(Figure(quick.ratio("S4", "S1") * session.s1.states / session.s4.states, "per state step", most=1.2))
    note = f"{slow.milliseconds(*slow.seconds)}; {level}, per state step, {quick.rounds} rounds: "
    return Result(figures, slow.rounds, note + quick.milliseconds("S4", "S1"))


def row_4(session: Session) -> Result:
    level, states = session.levels[0], session.s1.states
    scan = contenders.native(session.s1_inputs, level)
    fused = image.fused_scan(session.s1, None, name="channel-last")

    def limit() -> float:
        with native_module.instruction_set(level):
            return states / native_module.exp_throughput(threads=session.threads)

    runs = [scan.forward(), fused.forward(), Contender("limit", limit)]
    timings = session.time(runs, 9)
    figure = Figure(timings.ratio(scan.name, "limit"), level, most=2.2)
    note = f"channel-last and merged: {timings.ratio(fused.name, 'limit'):.2f}"
    speed = states / timings.median("limit") / 1e9
    return Result([figure], timings.rounds, f"{note}; {timings.milliseconds(*timings.seconds)}; {speed:.3g} G exp/s")


def row_5(session: Session) -> Result:
    timings = session.s1_training
    figure = Figure(timings.ratio(_mambapy(timings), "ours (torch)"), least=6)
    return Result([figure], timings.rounds, timings.milliseconds(_mambapy(timings), "ours (torch)"))


def row_6(session: Session) -> Result:
    session.levels  # noqa: B018 - raises where there is no native kernel
    rounds, figures = 1 if session.quick else session.rounds(3), []
    for train, label, most in ((True, "forward+backward", 4.0), (False, "forward", 1.2)):
        values = [scan_memory.measure_in_child(session.s1, train, session.threads) for _ in range(rounds)]
        figures.append(Figure(statistics.median(values), label, most=most))
    u_bytes = 4 * session.s1.states / session.s1.state
    sizes = ", ".join(f"{figure.label} {figure.value * u_bytes / 1e6:.1f} MB" for figure in figures)
    return Result(figures, rounds, f"u has {u_bytes / 1e6:.1f} MB; {sizes}; a fresh process each")


def row_7(session: Session) -> Result:
    session.levels  # noqa: B018 - raises where there is no native kernel
    forward, gradient, cases = scan_accuracy.worst_errors(session.quick, scan_accuracy.EXTREMES)
    figures, notes = [], []
    for label, worst, most in (("forward", forward, 1e-6), ("gradient", gradient, 5e-6)):
        level = max(native_module.instruction_sets(), key=lambda name: worst[name].error)
        figures.append(Figure(worst[level].error, label, most=most))
        errors = ", ".join(f"{name} {value.error:.2g}" for name, value in worst.items())
        notes.append(f"{label}: {errors}; worst at {worst[level].where}")
    forward, _, _ = scan_accuracy.worst_errors(session.quick, scan_accuracy.SLOW)
    notes.append("forward, |A| <= 0.016: " + ", ".join(f"{name} {value.error:.2g}" for name, value in forward.items()))
    return Result(figures, f"{cases} cases", "; ".join(notes))


def row_8(session: Session) -> Result:
    level, side = session.levels[0], session.side
    shape = session.s1._replace(length=side * side)
    orders = cross_scan_orders(side, side)
    scans = [
        image.fused_scan(shape, orders, name="fused"),
        image.copying_scan(shape, side, side),
        image.fused_scan(shape, image.random_orders(side, side), name="random"),
    ]
    fused, copied = (scan.compute() for scan in scans[:2])
    apart = ((fused - copied).abs().max() / copied.abs().max()).item()
    timings = session.time([scan.training() for scan in scans], 15)
    figures = [
        Figure(timings.ratio("copies", "fused"), "copies / fused", least=1.3),
        Figure(timings.ratio("random", "fused"), "random / raster", most=1.1),
    ]
    return Result(figures, timings.rounds, f"{level}; {timings.milliseconds(*timings.seconds)}; {apart:.1g} apart")


def row_9(session: Session) -> Result:
    session.levels  # noqa: B018 - raises where there is no native kernel
    steps, counts = image.training_steps(session.quick)
    timings = session.time(steps, 3)
    figures = [
        Figure(timings.ratio("mambapy", "ours"), "mambapy", least=14),
        Figure(timings.ratio("DiffusionModelUNet", "ours"), "DiffusionModelUNet"),
    ]
    sizes = ", ".join(f"{name} {count:,} parameters" for name, count in counts.items())
    return Result(figures, timings.rounds, f"{timings.milliseconds(*timings.seconds)}; {sizes}")


def row_10(session: Session) -> Result:
    session.levels  # noqa: B018 - raises where there is no native kernel
    timings = session.s1_training
    figure = Figure(timings.ratio(_mambapy(timings), "ours (base)"), "base", least=20)
    return Result([figure], timings.rounds, timings.milliseconds(_mambapy(timings), "ours (base)"))


ROWS: dict[int, tuple[str, Callable[[Session], Result]]] = {
    1: ("S1 forward+backward against mambapy", row_1),
    2: ("S1 forward against selective_scan_ref", row_2),
    3: ("S4 forward+backward against mambapy; per state step against S1", row_3),
    4: ("S1 forward against the exp-throughput limit", row_4),
    5: ("PyTorch path, S1 forward+backward, against mambapy", row_5),
    6: ("extra memory at S1, in bytes of u", row_6),
    7: ("error against float64, of the largest value", row_7),
    8: ("fused SS2D scan, forward+backward", row_8),
    9: ("training step of VMDDPM, times as fast as", row_9),
    10: ("S1 forward+backward without AVX against mambapy", row_10),
}
