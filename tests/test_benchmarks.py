"""The benchmark of the scan runs: every row appears, and whatever can be measured here is."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.])|\b(?:inf|nan)\b")

NEEDS_MAMBAPY = {1, 3, 5, 9, 10}
NEEDS_NATIVE = {1, 2, 3, 4, 6, 7, 8, 9, 10}


def run_benchmark(*arguments: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    command = [sys.executable, "tests/benchmarks/scan.py", "--quick", "--threads", "1", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def table(output: str) -> dict[int, list[str]]:
    """Number of each row, and its other cells."""
    lines = [line.strip("| ").split(" | ") for line in output.splitlines() if re.match(r"\| \d", line)]
    return {int(number): [cell.strip() for cell in cells] for number, *cells in lines}


@pytest.mark.slow
def test_every_row_shows_finite_figures_or_why_not() -> None:
    from monai_mamba_gen.ops import native_module

    output = run_benchmark("--markdown", "--rounds", "1")
    rows = table(output)
    assert sorted(rows) == list(range(1, 11)), output
    missing = set()
    if importlib.util.find_spec("mambapy") is None:
        missing |= NEEDS_MAMBAPY
    if native_module.native_problem() is not None:
        missing |= NEEDS_NATIVE
    for number, (_, measured, *_) in rows.items():
        if number in missing:
            assert measured == "cannot run"
            assert re.search(rf"^- row {number}: .*(mambapy|native kernel)", output, re.MULTILINE), output
        else:
            values = [float(value) for value in NUMBER.findall(measured)]
            assert values, output
            assert all(math.isfinite(value) for value in values), output


def test_rows_are_chosen_and_the_machine_is_named() -> None:
    output = run_benchmark("--rows", "2", "--rounds", "1")
    assert re.search(r"^CPU: .+ 1 threads used$", output, re.MULTILINE), output
    assert re.search(r"^instruction set: .+$", output, re.MULTILINE), output
    assert re.findall(r"^row (\d+):", output, re.MULTILINE) == ["2"]


@pytest.mark.slow
def test_cost_of_a_cine_shows_every_cell() -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "tests/benchmarks/cine_cost.py", "--quick", "--preset", "tiny"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    rows = [line for line in result.stdout.splitlines() if re.match(r"\| (denoise|animate) ", line)]
    assert len(rows) == 8  # three numbers of frames and a line on linearity, twice


@pytest.mark.slow
def test_cost_of_a_translation_shows_every_cell() -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    script = "tests/benchmarks/translation_cost.py"
    command = [sys.executable, "-W", "ignore", script, "--quick", "--preset", "tiny/2", "--rounds", "1"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    rows = re.findall(r"^\| (?:train|sample) \| (\w+) ", result.stdout, flags=re.MULTILINE)
    assert rows == 2 * [name for name in ("diffma", "attention", "unet") for _ in range(2)]
