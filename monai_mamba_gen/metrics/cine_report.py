"""The report on generated cines: means over the patients, spread over the seeds, as JSON, CSV and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .tables import figure_table, finite, package_versions, rows_csv, summarise

__all__ = ["CINE_FIGURES", "build_cine_report", "cine_csv", "cine_table", "seed_spread", "summarise"]

CINE_FIGURES: Mapping[str, str] = {
    "psnr": "dB of the frames between ED and ES, mean over the frames; identical frames (infinite) are left out",
    "nmse": "sum (pred - true)^2 / sum true^2 of the same frames, both mapped to [0, 1]; mean over the frames",
    "ssim": "3D SSIM of the same frames, Gaussian window of up to 7 voxels an axis; mean over the frames",
    "es_psnr, es_nmse, es_ssim": "the same for the last frame (phase 1) against the ES volume",
    "dice_*": "ED label warped to end systole (nearest) against the ES label; dice_mean over the structures drawn",
    "dice_before_*": "ED label as it is against the ES label",
    "dice_phase_0": "ED label warped at phase 0 against itself, mean over the structures drawn",
    "ef_true, ef_predicted": "ejection fraction from the ED label and the ES label, or the warped ED label",
    "ef_error_points": "|ef_predicted - ef_true| in percentage points",
    "volume_ed_*, volume_es_*, volume_es_true_*": "of the ED label, warped to ES, of the ES label, in volume_unit",
    "es_phase": "phase of the frame taken as end systole: the largest one",
    "non_positive_jacobian": "share of voxels where the map to end systole folds",
    "temporal_smoothness": "mean |second difference in time| / mean |first difference|; 0 is constant change",
    "temporal_smoothness_true": "the same of the true frames, ED and ES included",
    "beat_difference": "mean absolute difference between the beats of two seeds, over all pairs compared",
}
"""What the figures of a report are."""

_COLUMNS = ("psnr", "nmse", "ssim", "es_psnr", "dice_", "ef_", "non_pos", "temporal_", "beat_")


def seed_spread(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """
    Return how far the ejection fractions of one patient's beats lie apart.

    Args:
        rows: one mapping a beat, with ``patient`` and ``ef_predicted``.

    Returns:
        One dictionary a patient: ``patient``, ``seeds`` (beats), ``ef_n``, ``ef_mean``, ``ef_min``, ``ef_max``,
        ``ef_sd``.

    Example:
        >>> seed_spread([{"patient": "a", "ef_predicted": 0.5}, {"patient": "a", "ef_predicted": 0.7}])[0]["ef_max"]
        0.7
    """
    patients: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        patients.setdefault(row["patient"], []).append(row)
    spread = []
    for patient, beats in patients.items():
        values = [beat["ef_predicted"] for beat in beats if beat.get("ef_predicted") is not None]
        figures = summarise(beats).get("ef_predicted", {"mean": None, "sd": None, "n": 0})
        spread.append(
            {"patient": patient, "seeds": len(beats), "ef_n": figures["n"], "ef_mean": figures["mean"]}
            | {"ef_min": min(values, default=None), "ef_max": max(values, default=None), "ef_sd": figures["sd"]}
        )
    return spread


def cine_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    r"""
    Return rows as CSV, see `rows_csv`.

    Example:
        >>> cine_csv([{"patient": "a", "psnr": 30.0, "frames": []}, {"patient": "b", "psnr": None}])
        'patient,psnr\na,30.0\nb,\n'
    """
    return rows_csv(rows)


def cine_table(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """
    Return the main figures as a Markdown table, see `figure_table`.

    Args:
        rows: one mapping a patient, or a beat where there is a ``seed``.
        summary: what `summarise` gave for the rows; default: computed here.

    Example:
        >>> print(cine_table([{"patient": "a", "psnr": 30.0}]).splitlines()[2])
        | a | 30 |
    """
    return figure_table(rows, _COLUMNS, summary=summary)


def build_cine_report(
    rows: Sequence[Mapping[str, Any]],
    model_name: str,
    preprocessing: Any,
    spread: Sequence[Mapping[str, Any]] = (),
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """
    Put rows and their means together.

    Args:
        rows: one mapping a patient, or a beat where there is a ``seed``, each with ``patient`` and ``mode``.
        model_name: name of the model.
        preprocessing: what was done to the data; figures of other preprocessing cannot be compared.
        spread: one mapping a patient with the spread over its seeds.
        warnings: what a reader of the figures should know.

    Returns:
        A dictionary of finite numbers, strings, None, lists and dictionaries of these.
    """
    report = {
        "model": model_name,
        "mode": ", ".join(sorted({row["mode"] for row in rows})),
        "preprocessing": preprocessing,
        "n_patients": len({row["patient"] for row in rows}),
        "n_rows": len(rows),
        "means": summarise(rows),
        "rows": rows,
        "figures": dict(CINE_FIGURES),
        "warnings": list(warnings),
        "versions": package_versions(),
    }
    if spread:
        left_out = ("seeds", "ef_n", "pairs")
        report |= {"spread": list(spread), "spread_means": summarise(spread, left_out)}
    return finite(report)
