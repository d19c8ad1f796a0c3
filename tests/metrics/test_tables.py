"""What `cine_table` and `translation_table` share; the figures themselves are tested with the reports."""

from __future__ import annotations

from monai_mamba_gen.metrics import figure_table, rows_csv, summarise


def test_only_named_columns_and_heads_that_are_there():
    rows = [{"patient": "a", "centre": "x", "dice_LV": 0.5, "other": 1.0}, {"patient": "b", "dice_LV": 0.7}]
    lines = figure_table(rows, ["dice_"], ["patient", "centre", "seed"]).splitlines()
    assert lines[0] == "| patient | centre | dice_LV |" and lines[3] == "| b |  | 0.7 |"
    assert lines[4] == "| mean |  | 0.6 |"


def test_csv_leaves_out_lists_and_what_is_not_finite():
    assert rows_csv([{"a": float("nan"), "b": [1]}, {"c": 2}]) == "a,c\n,\n,2\n"


def test_left_out():
    assert summarise([{"a": 1.0, "b": 2}], left_out=("b",)) == {"a": {"mean": 1.0, "sd": None, "n": 1}}
