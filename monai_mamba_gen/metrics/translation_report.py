"""The report on translated volumes: a row a patient and their means, as JSON and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .tables import figure_table, finite, package_versions, summarise

__all__ = ["TRANSLATION_FIGURES", "build_translation_report", "translation_table"]

TRANSLATION_FIGURES: Mapping[str, str] = {
    "mae": "mean |pred - true| inside the mask, in the units of output_range",
    "psnr": "dB inside the mask, both clipped to data_range; equal volumes (infinite) are left out",
    "ssim": "SSIM map (uniform window of 7 voxels an axis) of the volumes set to the smallest value outside the mask, "
    "mean inside the mask where the window lies inside the volume",
    "std": "mean standard deviation between the averaged samples inside the mask, in the units of output_range",
}
"""What the figures of a report are; definitions of SynthRAD2023, see `translation_scores`."""

_COLUMNS = tuple(TRANSLATION_FIGURES)
_HEADS = ("patient", "region")
_LEFT_OUT = ("patient", "mask_voxels")


def translation_table(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """
    Return the figures as a Markdown table, see `figure_table`.

    Args:
        rows: one mapping a patient.
        summary: the report's ``means``; default: computed here.

    Example:
        >>> print(translation_table([{"patient": "1BA001", "mae": 0.05, "mask_voxels": 9}]).splitlines()[2])
        | 1BA001 | 0.05 |
    """
    return figure_table(rows, _COLUMNS, _HEADS, summarise(rows, _LEFT_OUT) if summary is None else summary)


def build_translation_report(
    rows: Sequence[Mapping[str, Any]],
    model_name: str,
    preprocessing: Any,
    direction: str = "ct2mr",
    output_range: Sequence[float] = (0.0, 1.0),
    data_range: Sequence[float] | None = None,
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """
    Put rows and their means together; where there are several regions, with the means of each.

    Args:
        rows: one mapping a patient, with ``patient``, the figures of `translation_scores` and maybe ``region``.
        model_name: name of the model.
        preprocessing: what was done to the data; figures of other preprocessing cannot be compared.
        direction: "ct2mr" or "mr2ct".
        output_range: what -1 and 1 of the network stand for in the figures.
        data_range: range of PSNR and SSIM; default ``output_range``.
        warnings: what a reader of the figures should know.

    Returns:
        A dictionary of finite numbers, strings, None, lists and dictionaries of these.
    """
    regions = sorted({row["region"] for row in rows if "region" in row})
    report = {
        "model": model_name,
        "direction": direction,
        "preprocessing": preprocessing,
        "output_range": list(output_range),
        "data_range": list(output_range if data_range is None else data_range),
        "n_patients": len({row["patient"] for row in rows}),
        "means": summarise(rows, _LEFT_OUT),
        "rows": list(rows),
        "figures": dict(TRANSLATION_FIGURES),
        "warnings": list(warnings),
        "versions": package_versions(),
    }
    if len(regions) > 1:
        report["region_means"] = {
            region: summarise([row for row in rows if row.get("region") == region], _LEFT_OUT) for region in regions
        }
    return finite(report)
