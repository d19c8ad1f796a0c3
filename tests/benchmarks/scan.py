"""
The selective scan beside its peers: the table of docs/performance.md.

    python tests/benchmarks/scan.py

Peers are mambapy 1.2.0 (``pip install --no-deps mambapy==1.2.0``), mamba-ssm's ``selective_scan_ref`` and MONAI's
DiffusionModelUNet (needs einops). Shapes (N, K, E, L, S): S1 = (4, 4, 192, 1024, 16), S4 = (1, 4, 96, 16384, 16).
float32, delta_softplus, D, delta_bias, B and C in K groups. One process; contenders take turns; a ratio is the median
of the ratios within each round. Forward passes are without gradients; backward passes yield the gradient in every
input. It takes some minutes on two cores and exits with 0 whatever it measures; a row that cannot run says why.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence

import torch
from scan_rows import ROWS, Figure, Result, Session, agreement
from scan_timing import cpu_name, load_average

from monai_mamba_gen.ops import native_module
from monai_mamba_gen.utils import keep_freed_memory

_WIDTHS = (2, 62, 47, 28, 3, 8)


def _number(value: float) -> str:
    return f"{value:.0f}" if 100 <= value < 1e6 else f"{value:.3g}"


def _bars(figures: Sequence[Figure]) -> str:
    """The bars of a row in the order of its figures, each kind named once: "at least 120, 85; at most 1.2"."""
    limits = {
        "at least": [figure.least for figure in figures],
        "at most": [figure.most for figure in figures],
    }
    groups = {kind: [_number(value) for value in values if value is not None] for kind, values in limits.items()}
    return "; ".join(f"{kind} {', '.join(values)}" for kind, values in groups.items() if values) or "reported"


def _line(cells: Sequence[str], markdown: bool) -> str:
    if markdown:
        return f"| {' | '.join(cells)} |"
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=True)).rstrip()


def _cells(number: int, title: str, result: Result) -> list[str]:
    measured = ", ".join(f"{figure.label} {_number(figure.value)}".strip() for figure in result.figures)
    met = "yes" if all(figure.met for figure in result.figures) else "no"
    return [str(number), title, measured, _bars(result.figures), met, str(result.rounds)]


def print_machine(threads: int) -> None:
    levels = native_module.instruction_sets()
    kernel = native_module.native_problem() or f"{levels[0]} in use, of {', '.join(levels)}"
    print(f"CPU: {cpu_name()}, {os.cpu_count()} cores, {threads} threads used")
    print(f"instruction set: {kernel}")
    print(f"torch {torch.__version__}, load {load_average()} at the start")
    print(agreement())
    print()


def print_table(session: Session, markdown: bool) -> None:
    """Print each row as soon as it is measured, and what belongs to it below the table."""
    notes = []
    print(_line(("#", "what", "measured", "bar", "met", "rounds"), markdown))
    if markdown:
        print("|---:|---|---|---|---|---:|")
    for number in session.rows:
        title, measure = ROWS[number]
        start = time.perf_counter()
        try:
            result = measure(session)
            cells, note = _cells(number, title, result), result.note
        except Exception as error:  # a peer that is missing or broken must not hide the other rows
            cells, note = [str(number), title, "cannot run", "", "", "0"], f"{type(error).__name__}: {error}"
        print(_line(cells, markdown), flush=True)
        notes.append((number, f"{note} [{time.perf_counter() - start:.0f} s]"))
    print()
    for number, note in notes:
        print(f"{'- ' if markdown else ''}row {number}: {note}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(map(str, ROWS)), help="numbers of the rows to measure, as 1,4")
    parser.add_argument("--quick", action="store_true", help="tiny shapes: shows that it runs, measures nothing")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, help="rounds of every row; default 2 to 15")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--keep_memory", action="store_true", help="call keep_freed_memory first, as the bundles do")
    args = parser.parse_args()
    rows = sorted({int(number) for number in args.rows.split(",") if number.strip().isdigit()} & ROWS.keys())
    if not rows:
        parser.error(f"--rows must be some of {', '.join(map(str, ROWS))}, got {args.rows}")
    torch.set_num_threads(args.threads)
    kept = args.keep_memory and keep_freed_memory()
    start = time.perf_counter()
    print_machine(args.threads)
    print(f"freed memory is {'kept' if kept else 'dealt with as glibc does by itself'}, for all contenders")
    print_table(Session(rows, args.quick, args.threads, args.rounds), args.markdown)
    print(f"\n{time.perf_counter() - start:.0f} s, load {load_average()} at the end")


if __name__ == "__main__":
    main()
