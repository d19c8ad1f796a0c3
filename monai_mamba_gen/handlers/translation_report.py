"""Scores the volumes that an evaluator translates against the true ones."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from ..data import cine_name
from ..metrics.translation import translation_scores
from ..metrics.translation_report import build_translation_report, translation_table
from ..utils import SYNTHETIC_MARKS, DataError, is_main_process, save_png
from .report_files import broadcast, gather_rows, log_report, means_of, write_report
from .tracking import track_report
from .translated_items import TranslatedItem, draw_item, image_keys_of, to_output_range, translated_items

__all__ = ["TranslationReportHandler"]

logger = logging.getLogger(__name__)


class TranslationReportHandler:
    """
    Score each patient's translated volume and write ``report.json``, ``report.csv``, ``report.md`` and pictures.

    To be attached to an evaluator whose inferer is a `TranslationInferer` or an `IntensityBaseline`. What an iteration
    made is read from ``inferer.result``, what it should be from ``engine.state.batch``: ``patient``, source and true
    image in [-1, 1], ``mask`` (or else the inferer's) and, where it is there, ``region``. A row a patient holds MAE,
    PSNR and SSIM inside the mask by the definitions of SynthRAD2023, see `translation_scores`, and the mean standard
    deviation where samples were averaged. The figures are on the grid of the batch: they are the challenge's own only
    where the preprocessing does not resample. The means go into ``engine.state.metrics``, NaN where there is no value,
    and one line is logged. ``<patient>.png`` shows the middle slice of the mask, see `translation_picture`.

    Works in any number of processes, each with at least one batch: rank 0 writes the reports, each process the
    pictures of its own patients; copies of a row that a padding sampler adds are dropped.

    Args:
        output_dir: folder of the reports; made where it is missing.
        inferer: object whose ``result`` holds ``"pred"`` (N, 1, H, W, D) or (N, 1, H, W) in [-1, 1], ``"std"`` or None,
            ``"mask"`` or None of the last call. Its ``direction``, by default "ct2mr", tells which image is which.
        model_name: what the report calls the model.
        preprocessing: what was done to the data, a text or JSON-like settings; it stands in the report, as figures of
            other preprocessing cannot be compared.
        output_range: what -1 and 1 stand for in the figures: (0, 1) for an MR normalised to percentiles, the window in
            Hounsfield units for a CT.
        data_range: range that PSNR and SSIM clip to; default ``output_range``. The challenge's for CT is (-1024, 3000).
        picture: whether to draw the pictures.
        image_key: key of the source; default "image", and "target" where the direction is "mr2ct".
        target_key: key of the true image; default the other of the two.

    Raises:
        ValueError: when an argument is outside what is allowed.
        DataError: while running, when a patient's data are missing, do not fit or are not finite.

    Example:
        >>> inferer = TranslationInferer(latent_space, scheduler)  # doctest: +SKIP
        >>> handler = TranslationReportHandler("evaluation", inferer, "DiffMa", "CT -1000 to 1000 HU")  # doctest: +SKIP
        >>> handler.attach(evaluator)  # doctest: +SKIP
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        inferer: Any,
        model_name: str,
        preprocessing: str | Mapping[str, Any] | Sequence[Any],
        output_range: Sequence[float] = (0.0, 1.0),
        data_range: Sequence[float] | None = None,
        picture: bool = True,
        image_key: str | None = None,
        target_key: str | None = None,
    ) -> None:
        if not preprocessing:
            raise ValueError(f"preprocessing must say what was done to the data, got {preprocessing!r}")
        for name, pair in {"output_range": output_range, "data_range": data_range}.items():
            if pair is not None and (len(pair) != 2 or not pair[0] < pair[1]):
                raise ValueError(f"{name} must be (low, high) with low < high, got {tuple(pair)}")
        self.output_dir = Path(output_dir)
        self.inferer = inferer
        self.model_name, self.preprocessing = model_name, preprocessing
        self.output_range = (float(output_range[0]), float(output_range[1]))
        self.data_range = self.output_range if data_range is None else (float(data_range[0]), float(data_range[1]))
        self.picture = picture
        self.direction, self.image_key, self.target_key = image_keys_of(inferer, image_key, target_key)
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

    def collect(self, engine: Engine) -> None:
        """Score the volumes of one iteration."""
        result = getattr(self.inferer, "result", None)
        for item in translated_items(engine.state.batch, result, self.image_key, self.target_key):
            self._rows.append(self._row(item))
            if self.picture:
                self._draw(item)

    def finish(self, engine: Engine) -> None:
        """Gather the rows, write the reports and put the means into ``engine.state.metrics`` of every process."""
        rows, warnings = gather_rows(self._rows, self._warnings)
        if not rows:
            raise DataError("the report on translated volumes has no patient: the evaluator made none")
        metrics = None
        if is_main_process():
            report = build_translation_report(
                rows,
                self.model_name,
                self.preprocessing,
                self.direction,
                self.output_range,
                self.data_range,
                warnings,
            )
            head = f"Model: {self.model_name}; direction: {self.direction}"
            write_report(self.output_dir, report, head, [translation_table(report["rows"], report["means"])])
            log_report(logger, summary_line(report), report)
            metrics = means_of(report["means"])
        engine.state.metrics.update(broadcast(metrics))
        track_report(engine, [self._picture(row["patient"]) for row in self._rows] if self.picture else [])

    def _row(self, item: TranslatedItem) -> dict[str, Any]:
        true = item.volume(self.target_key)
        if item.mask is None:
            raise item.error("no 'mask' in the batch, and the inferer was given none")
        if not bool(item.mask.any()):
            raise item.error("'mask' is empty")
        if not bool(torch.isfinite(true[item.mask]).all()):
            raise item.error(f"{self.target_key!r} holds NaN or infinite values inside the mask")
        row: dict[str, Any] = {"patient": item.patient}
        if item.item.get("region") is not None:
            row["region"] = str(item.item["region"])
        pred, true = (to_output_range(volume, self.output_range) for volume in (item.pred, true))
        row |= translation_scores(pred, true, item.mask, self.data_range)
        if item.std is not None:
            row["std"] = item.std[item.mask].double().mean().item() * (self.output_range[1] - self.output_range[0]) / 2
        row["mask_voxels"] = int(item.mask.sum())
        if row["ssim"] is None:
            self._warnings.append(f"patient {item.patient}: no voxel of the mask has a whole window for SSIM")
        return row

    def _draw(self, item: TranslatedItem) -> None:
        save_png(self._picture(item.patient), draw_item(item, self.direction), SYNTHETIC_MARKS)

    def _picture(self, patient: str) -> Path:
        return self.output_dir / f"{cine_name(patient)}.png"


def summary_line(report: Mapping[str, Any]) -> str:
    """Return a report as one line of text; each figure has its n where some patients lack it."""
    names = {"mae": "MAE", "psnr": "PSNR", "ssim": "SSIM", "std": "sd between samples"}
    parts = []
    for key, name in names.items():
        figure = report["means"].get(key)
        if figure and figure["n"]:
            count = f" (n = {figure['n']})" if figure["n"] < report["n_patients"] else ""
            parts.append(f"{name} {figure['mean']:.4g}{count}")
    return f"{report['model']}, {report['direction']} of {report['n_patients']} patients: {', '.join(parts)}"
