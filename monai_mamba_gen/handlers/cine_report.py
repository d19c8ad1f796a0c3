"""Scores the cines an evaluator makes: against true frames and labels, or seed against seed."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events

from ..metrics.cine_frames import beat_difference
from ..metrics.cine_motion import ACDC_STRUCTURES
from ..metrics.cine_report import build_cine_report, cine_table, seed_spread
from ..utils.distributed import get_rank, get_world_size, is_main_process
from ..utils.errors import DataError
from .cine_rows import beat_row, cine_items
from .report_files import broadcast, gather_rows, log_report, means_of, write_report
from .tracking import track_report

__all__ = ["CineReportHandler"]

logger = logging.getLogger(__name__)


class CineReportHandler:
    """
    Score each patient's generated cine and write ``report.json``, ``report.csv`` and ``report.md`` (a table).

    To be attached to an evaluator whose inferer is a `CineInferer`. What an iteration made is read from
    ``inferer.result``, what it should be from ``engine.state.batch``: ``patient``, ``image`` (ED) and, where they are
    there, ``target`` (ES), ``label``, ``target_label``, ``frames`` with ``phases`` (true frames), ``group``, ``seed``.
    The means go into ``engine.state.metrics``, NaN where there is no value, and one line is logged.

    Interpolation gives a row a patient: PSNR, NMSE and SSIM of the frames whose phase is that of a true frame (to
    1e-6); Dice of the ED label warped to end systole against the ES label, and before warping; ejection fraction and
    its error; volumes; folding; temporal smoothness. Generation gives a row for each patient and seed, without the
    comparison, and the spread over a patient's seeds. `CINE_FIGURES` says what each figure is. A structure that a
    label does not have counts as not drawn: None, left out of the means, whose n says so.

    Works in any number of processes, each with at least one batch: rank 0 writes; copies of a row that a padding
    sampler adds are dropped.

    Args:
        output_dir: folder of the reports; made where it is missing.
        inferer: object whose ``result`` holds ``"frames"`` (N, T, H, W, D), ``"displacement"`` (N, T, 3, H, W, D) in
            voxels, ``"phases"`` (T,) or (N, T) and ``"mode"`` (``"interpolation"`` or ``"generation"``) of the last
            call.
        model_name: what the report calls the model.
        preprocessing: what was done to the data, a text or JSON-like settings; it stands in the report, as figures of
            other preprocessing cannot be compared.
        require_labels: whether a patient without ``label``, or for interpolation without ``target_label``, is an error.
        structures: name and label of each structure.
        ejection_structure: name of the structure whose ejection fraction is taken.
        data_range: largest minus smallest value of the volumes, which are centred at 0.
        compared_seeds: beats of each patient kept in memory (as float16) for the difference between seeds, those of
            the lowest seeds; 0 leaves it out.

    Raises:
        ValueError: when an argument is outside what is allowed.
        DataError: while running, when a patient's data are missing, do not fit or are not finite.

    Example:
        >>> inferer = CineInferer(scheduler)  # doctest: +SKIP
        >>> handler = CineReportHandler("evaluation", inferer, "mstg", "1.5 x 1.5 x 3.15 mm")  # doctest: +SKIP
        >>> handler.attach(evaluator)  # doctest: +SKIP
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        inferer: Any,
        model_name: str,
        preprocessing: str | Mapping[str, Any] | Sequence[Any],
        require_labels: bool = True,
        structures: Mapping[str, int] | None = None,
        ejection_structure: str = "LV",
        data_range: float = 2.0,
        compared_seeds: int = 8,
    ) -> None:
        self.structures = dict(ACDC_STRUCTURES if structures is None else structures)
        if ejection_structure not in self.structures:
            raise ValueError(f"ejection_structure must be one of {list(self.structures)}, got {ejection_structure!r}")
        if not preprocessing:
            raise ValueError(f"preprocessing must say what was done to the data, got {preprocessing!r}")
        if compared_seeds < 0:
            raise ValueError(f"compared_seeds must be at least 0, got {compared_seeds}")
        self.output_dir = Path(output_dir)
        self.inferer = inferer
        self.model_name, self.preprocessing = model_name, preprocessing
        self.require_labels = require_labels
        self.ejection_structure = ejection_structure
        self.data_range = data_range
        self.compared_seeds = compared_seeds
        self.start()

    def attach(self, engine: Engine) -> None:
        """Score what ``engine`` makes."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def start(self, engine: Engine | None = None) -> None:
        """Forget what an earlier run has left."""
        self._rows: list[dict[str, Any]] = []
        self._warnings: list[str] = []
        self._beats: dict[str, dict[int, torch.Tensor]] = {}

    def collect(self, engine: Engine) -> None:
        """Score the cines of one iteration."""
        for item in cine_items(engine.state.batch, self.inferer.result):
            row, warnings = beat_row(
                item, self.require_labels, self.structures, self.ejection_structure, self.data_range
            )
            self._rows.append(row)
            self._warnings += warnings
            if row["mode"] == "generation" and self.compared_seeds:
                beats = self._beats.setdefault(row["patient"], {})
                beats[row["seed"]] = item["generated"]["frames"].to("cpu", torch.float16)
                for seed in sorted(beats)[self.compared_seeds :]:
                    del beats[seed]

    def finish(self, engine: Engine) -> None:
        """Gather the rows, write the reports and put the means into ``engine.state.metrics`` of every process."""
        rows, warnings = gather_rows(self._rows, self._warnings)
        if not rows:
            raise DataError("the report on the cines has no patient: the evaluator made none")
        spread = self._spread([row for row in rows if row["mode"] == "generation"])
        metrics = None
        if is_main_process():
            report = build_cine_report(rows, self.model_name, self.preprocessing, spread, warnings)
            self._write(report)
            metrics = means_of(report["means"] | report.get("spread_means", {}))
        engine.state.metrics.update(broadcast(metrics))
        track_report(engine)
        self._beats = {}

    def _spread(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return the spread over the seeds of each patient; the difference between beats on rank 0 only."""
        spread = seed_spread(rows)
        for entry in spread if self.compared_seeds else ():
            own = self._beats.pop(entry["patient"], {})
            parts: list[Any] = [own]
            if get_world_size() > 1:
                # One patient at a time, and to rank 0 alone: beats are large.
                parts = [None] * get_world_size()
                dist.gather_object(own, parts if get_rank() == 0 else None, dst=0)
            if not is_main_process():
                continue
            beats = {seed: beat for part in parts for seed, beat in part.items()}
            compared = [beats[seed] for seed in sorted(beats)[: self.compared_seeds]]
            pairs = len(compared) * (len(compared) - 1) // 2
            entry |= {"beat_difference": beat_difference(compared), "pairs": pairs}
        return spread

    def _write(self, report: Mapping[str, Any]) -> None:
        """Write the reports, each atomically, and log one line."""
        tables = [cine_table(report["rows"], report["means"])]
        if "spread" in report:
            tables.append(cine_table(report["spread"], report["spread_means"]))
        write_report(self.output_dir, report, f"Model: {report['model']}; mode: {report['mode']}", tables)
        log_report(logger, summary_line(report), report)


def summary_line(report: Mapping[str, Any]) -> str:
    """Return a report of `build_cine_report` as one line of text; each figure has its n where some patients lack it."""
    names = {
        "psnr": "PSNR",
        "nmse": "NMSE",
        "ssim": "SSIM",
        "dice_mean": "Dice",
        "ef_predicted": "EF",
        "ef_error_points": "EF error (points)",
        "ef_sd": "sd of EF over seeds",
        "beat_difference": "difference of beats",
        "dice_phase_0": "Dice at phase 0",
        "non_positive_jacobian": "folds",
        "temporal_smoothness": "temporal smoothness",
    }
    means = report["means"] | report.get("spread_means", {})
    parts = []
    for key, name in names.items():
        figure = means.get(key)
        if figure and figure["n"]:
            whole = report["n_patients"] if key in report.get("spread_means", {}) else report["n_rows"]
            parts.append(f"{name} {figure['mean']:.4g}" + (f" (n = {figure['n']})" if figure["n"] < whole else ""))
    counts = f"{report['n_patients']} patients" + (
        f", {report['n_rows']} beats" if report["n_rows"] != report["n_patients"] else ""
    )
    return f"{report['model']}, {report['mode']} of {counts}: {', '.join(parts)}"
