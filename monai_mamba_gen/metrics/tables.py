"""Rows of figures, one a patient, as means, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ignite
import monai
import numpy as np
import torch

from .. import __version__

__all__ = ["figure_table", "finite", "package_versions", "rows_csv", "summarise"]

_LEFT_OUT = ("patient", "seed", "es_phase", "true_frames", "compared_frames")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def finite(value: Any) -> Any:
    """
    Put None for each number that JSON cannot hold.

    Example:
        >>> finite({"psnr": [float("inf"), 30.0]})
        {'psnr': [None, 30.0]}
    """
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _ordered_keys(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def summarise(
    rows: Sequence[Mapping[str, Any]], left_out: Sequence[str] = _LEFT_OUT
) -> dict[str, dict[str, float | int | None]]:
    """
    Return mean, standard deviation and n of every figure.

    Args:
        rows: one mapping a patient. A figure that a row lacks, or that is None, NaN or infinite, is left out, which n
            shows.
        left_out: keys that are numbers but no figures.

    Returns:
        ``{key: {"mean": float, "sd": float, "n": int}}`` for each key whose values are numbers or None. The standard
        deviation is that of a sample (n - 1), None for n < 2; the mean is None for n = 0.

    Example:
        >>> summarise([{"patient": "a", "psnr": 30.0}, {"patient": "b", "psnr": 32.0}, {"patient": "c", "psnr": None}])
        {'psnr': {'mean': 31.0, 'sd': 1.4142135623730951, 'n': 2}}
    """
    summary = {}
    for key in _ordered_keys(rows):
        values = [row.get(key) for row in rows]
        if key in left_out or not all(value is None or _is_number(value) for value in values):
            continue
        numbers = np.array([value for value in values if value is not None and math.isfinite(value)], dtype=np.float64)
        summary[key] = {
            "mean": float(numbers.mean()) if len(numbers) else None,
            "sd": float(numbers.std(ddof=1)) if len(numbers) > 1 else None,
            "n": len(numbers),
        }
    return summary


def rows_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    r"""
    Return rows as CSV with a header: one line a row, an empty field for None, NaN or infinity, no lists.

    Example:
        >>> rows_csv([{"patient": "a", "psnr": 30.0, "frames": []}, {"patient": "b", "psnr": None}])
        'patient,psnr\na,30.0\nb,\n'
    """
    nested = {key for row in rows for key, value in row.items() if isinstance(value, (list, tuple, Mapping))}
    columns = [key for key in _ordered_keys(rows) if key not in nested]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: finite(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def figure_table(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    heads: Sequence[str] = ("patient", "seed"),
    summary: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """
    Return figures as a Markdown table: a line a row, then mean, standard deviation and n.

    Args:
        rows: one mapping a row.
        columns: what the names of the figures that are shown begin with.
        heads: keys that name a row, those that any row has.
        summary: what `summarise` gave for the rows; default: computed here.

    Example:
        >>> print(figure_table([{"patient": "a", "psnr": 30.0}, {"patient": "b", "psnr": 32.0}], ["psnr"]))
        | patient | psnr |
        |:--|--:|
        | a | 30 |
        | b | 32 |
        | mean | 31 |
        | sd | 1.414 |
        | n | 2 |
        <BLANKLINE>
    """
    summary = summarise(rows) if summary is None else summary
    figures = [key for key, value in summary.items() if value["n"] and key.startswith(tuple(columns))]
    heads = [key for key in heads if any(key in row for row in rows)]
    lines = [[*heads, *figures], [":--"] * len(heads) + ["--:"] * len(figures)]
    lines += [[str(row.get(key, "")) for key in heads] + [_cell(row.get(key)) for key in figures] for row in rows]
    for name in ("mean", "sd", "n"):
        lines.append([name, *[""] * (len(heads) - 1), *(_cell(summary[key][name]) for key in figures)])
    edges = [" " if index != 1 else "" for index in range(len(lines))]
    return "".join(
        f"|{edge}" + f"{edge}|{edge}".join(line) + f"{edge}|\n" for edge, line in zip(edges, lines, strict=True)
    )


def _cell(value: Any) -> str:
    return "" if finite(value) is None else f"{value:.4g}"


def package_versions() -> dict[str, str]:
    """Return the versions of what figures are computed with."""
    return {"monai_mamba_gen": __version__, "python": platform.python_version()} | {
        package.__name__: package.__version__ for package in (torch, monai, ignite, np)
    }
