"""Marks in the data."""

from __future__ import annotations

from monai_mamba_gen.transforms import MarkSyntheticd


def test_marks_are_added_and_nothing_is_lost():
    data = {"result": {"points": [1]}, "pred": 0}
    marked = MarkSyntheticd({"seed": 3})(data)
    assert marked["result"] == {"points": [1], "synthetic": True, "seed": 3} and marked["pred"] == 0
    assert data["result"] == {"points": [1]}
    assert MarkSyntheticd(result_key="other")({"other": None})["other"] == {"synthetic": True}
