"""What the handlers that report on patients share: rows of all processes, files, and means for the engine."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ..metrics.tables import rows_csv
from ..utils.atomic_write import atomic_write
from ..utils.distributed import get_world_size

__all__ = ["broadcast", "gather_rows", "log_report", "means_of", "write_report"]


def gather_rows(rows: Sequence[Mapping[str, Any]], warnings: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """
    Return the rows and warnings of all processes, in an order that does not depend on their number.

    Of rows of one patient, and seed where there is one, the first counts.
    """
    parts: list[Any] = [(rows, warnings)]
    if get_world_size() > 1:
        parts = [None] * get_world_size()
        dist.all_gather_object(parts, (rows, warnings))
    kept: dict[tuple[str, int], dict[str, Any]] = {}
    for row in (row for part, _ in parts for row in part):
        kept.setdefault((row["patient"], row.get("seed", -1)), row)
    return [kept[key] for key in sorted(kept)], sorted({warning for _, part in parts for warning in part})


def means_of(summary: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return the means of `summarise` for ``engine.state.metrics``, NaN where there is none."""
    return {key: float("nan") if value["mean"] is None else value["mean"] for key, value in summary.items()}


def broadcast(value: Any) -> Any:
    """Return what rank 0 has, in every process."""
    if get_world_size() == 1:
        return value
    holder = [value]
    dist.broadcast_object_list(holder, src=0)
    return holder[0]


def write_report(
    output_dir: str | os.PathLike[str], report: Mapping[str, Any], head: str, tables: Sequence[str]
) -> None:
    """
    Write ``report.json``, ``report.csv`` (the rows) and ``report.md`` (heading and tables), each atomically.

    Args:
        output_dir: the folder; made where it is missing.
        report: dictionary of finite numbers, strings, None, lists and dictionaries of these, with ``rows``.
        head: one line for the Markdown, to which what was done to the data is added.
        tables: Markdown tables.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    preprocessing = report["preprocessing"]
    preprocessing = preprocessing if isinstance(preprocessing, str) else json.dumps(preprocessing)
    texts = {
        "report.json": json.dumps(report, indent=2, allow_nan=False) + "\n",
        "report.csv": rows_csv(report["rows"]),
        "report.md": f"{head}; preprocessing: {preprocessing}\n\n" + "\n".join(tables),
    }
    for name, text in texts.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def log_report(logger: logging.Logger, line: str, report: Mapping[str, Any]) -> None:
    """Log a report's line and its warnings."""
    logger.info(line)
    for warning in report["warnings"]:
        logger.warning(warning)
