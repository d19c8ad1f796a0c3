"""
Cost of MSTG and of making a cine with it, over the number of frames and the size of the volume.

    OMP_NUM_THREADS=1 python tests/benchmarks/cine_cost.py

prints the table of docs/performance.md. "denoise": one pass of MSTG over n noisy frames and the two given ones.
"animate": one pass over one noisy frame, then n frames warped, as interpolation does. Without
gradients, CPU. Times are CPU times of the process, medians. Peak memory is the growth of the resident set in a fresh
process for each cell; that needs Linux. "ratio" is time or memory over that of two frames; "off" is the largest
relative distance of a cell from the straight line a + b n that fits all cells best.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from monai_mamba_gen.networks.nets import MSTG, cine_model

SIZES = [(64, 64, 16), (128, 128, 32)]
FRAMES = [2, 5, 10, 20]


def task(kind: str, preset: str, size: tuple[int, ...], frames: int) -> Callable[[], object]:
    """What is measured, ready to run."""
    torch.manual_seed(0)
    context = torch.rand(1, 2, *size) * 2 - 1
    times = torch.zeros(1)
    if kind == "denoise":
        network, x = MSTG.from_preset(preset).eval(), torch.randn(1, 1, frames, *size)
        return lambda: network(x, times, context)
    model = cine_model("mstg", mstg=preset).eval()
    source, target = context[:, :1], context[:, 1:]

    def animate() -> object:
        _, code = model.predict(target, times, context)
        return model.animate(source, target, code, torch.linspace(0, 1, frames))

    return animate


def seconds(run: Callable[[], object], rounds: int) -> float:
    with torch.no_grad():
        run()
        spent = []
        for _ in range(rounds):
            start = time.process_time()
            run()
            spent.append(time.process_time() - start)
    return statistics.median(spent)


def _status_megabytes(key: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def peak_megabytes(kind: str, preset: str, size: tuple[int, ...], frames: int) -> float:
    """Growth of the resident set during one run, after a run on a tiny volume has loaded all libraries."""
    with torch.no_grad():
        task(kind, preset, (8, 8, 8), 2)()
        run = task(kind, preset, size, frames)
        before = _status_megabytes("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # start the peak anew
        run()
    return _status_megabytes("VmHWM") - before


def peak_in_child(kind: str, preset: str, size: tuple[int, ...], frames: int) -> float:
    cell = [kind, preset, ",".join(map(str, size)), str(frames)]
    command = [sys.executable, "-W", "ignore", __file__, "--peak", *cell]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def off_the_line(counts: list[int], values: list[float]) -> float:
    """Largest relative distance of a value from the straight line a + b n that fits all best, in relative terms."""
    y = torch.tensor(values, dtype=torch.float64)
    x = torch.stack([torch.ones(len(counts), dtype=torch.float64), torch.tensor(counts, dtype=torch.float64)], dim=1)
    fitted = torch.linalg.lstsq(x / y[:, None], torch.ones_like(y)[:, None]).solution
    return float((x @ fitted / y[:, None] - 1).abs().max())


def table(kind: str, preset: str, size: tuple[int, ...], frames: list[int], rounds: int) -> None:
    times = [seconds(task(kind, preset, size, count), rounds) for count in frames]
    peaks = [peak_in_child(kind, preset, size, count) for count in frames]
    for count, spent, peak in zip(frames, times, peaks, strict=True):
        print(
            f"| {kind} | {'x'.join(map(str, size))} | {count} | {spent:.2f} | {spent / times[0]:.2f} "
            f"| {peak:.0f} | {peak / peaks[0]:.2f} |"
        )
    print(
        f"| {kind} | {'x'.join(map(str, size))} | off the line | {100 * off_the_line(frames, times):.0f} % | "
        f"| {100 * off_the_line(frames, peaks):.0f} % | |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="base", choices=sorted(MSTG.presets))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="small volumes and few frames, to see that it runs")
    parser.add_argument("--peak", nargs=4, metavar=("KIND", "PRESET", "SIZE", "FRAMES"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        kind, preset, size, frames = args.peak
        print(peak_megabytes(kind, preset, tuple(map(int, size.split(","))), int(frames)))
        return
    sizes, frames, rounds = (SIZES, FRAMES, args.rounds) if not args.quick else ([(16, 16, 8)], [2, 3, 4], 1)
    print(
        f"{platform.machine()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} thread(s), torch {torch.__version__}"
    )
    print(f"preset {args.preset}\n")
    print("| what | size | frames | CPU s | ratio | peak MB | ratio |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for kind in ("denoise", "animate"):
        for size in sizes:
            table(kind, args.preset, size, frames, rounds)


if __name__ == "__main__":
    main()
