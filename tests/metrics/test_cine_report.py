import csv
import io
import json
import math

import pytest

from monai_mamba_gen.metrics import build_cine_report, cine_csv, cine_table, seed_spread, summarise

ROWS = [
    {"patient": "a", "mode": "interpolation", "psnr": 30.0, "dice_Myo": 0.75, "frames": [{"phase": 0.5, "psnr": 30.0}]},
    {"patient": "b", "mode": "interpolation", "psnr": 34.0, "dice_Myo": None, "frames": []},
    {"patient": "c", "mode": "interpolation", "psnr": math.inf, "dice_Myo": None, "frames": []},
]
BEATS = [
    {"patient": patient, "mode": "generation", "seed": seed, "ef_predicted": value}
    for patient, seed, value in (("a", 0, 0.5), ("a", 1, 0.7), ("a", 2, 0.6), ("b", 0, 0.4), ("b", 1, None))
]


def test_means_leave_out_what_is_not_there():
    summary = summarise(ROWS)
    assert list(summary) == ["psnr", "dice_Myo"]
    assert summary["psnr"] == {"mean": 32.0, "sd": pytest.approx(math.sqrt(8)), "n": 2}
    assert summary["dice_Myo"] == {"mean": 0.75, "sd": None, "n": 1}
    assert summarise([{"psnr": None}])["psnr"] == {"mean": None, "sd": None, "n": 0}
    assert summarise([{"psnr": 1.0}, {"ssim": math.nan}]) == {
        "psnr": {"mean": 1.0, "sd": None, "n": 1},
        "ssim": {"mean": None, "sd": None, "n": 0},
    }
    assert summarise([]) == {}


def test_seeds_and_texts_have_no_mean():
    assert list(summarise(BEATS)) == ["ef_predicted"]
    assert summarise([{"warped": True, "volume_unit": "ml"}]) == {}


def test_spread_over_seeds():
    first, second = seed_spread(BEATS)
    assert first == {
        "patient": "a",
        "seeds": 3,
        "ef_n": 3,
        "ef_mean": pytest.approx(0.6),
        "ef_min": 0.5,
        "ef_max": 0.7,
        "ef_sd": pytest.approx(0.1),
    }
    assert (second["seeds"], second["ef_n"], second["ef_sd"], second["ef_min"]) == (2, 1, None, 0.4)


def test_csv_can_be_read_again():
    rows = list(csv.DictReader(io.StringIO(cine_csv([*ROWS, {"patient": 'd, "e"', "ssim": 0.5}]))))
    assert [row["patient"] for row in rows] == ["a", "b", "c", 'd, "e"']
    assert list(rows[0]) == ["patient", "mode", "psnr", "dice_Myo", "ssim"]
    assert [row["psnr"] for row in rows] == ["30.0", "34.0", "", ""]
    assert float(rows[3]["ssim"]) == 0.5


def test_table():
    lines = cine_table(BEATS).splitlines()
    assert lines[0] == "| patient | seed | ef_predicted |"
    assert lines[1] == "|:--|:--|--:|"
    assert lines[2] == "| a | 0 | 0.5 |"
    assert lines[6] == "| b | 1 |  |"
    assert lines[-1] == "| n |  | 4 |"
    assert {line.count("|") for line in lines} == {4}


def test_report_is_json_without_nan():
    report = build_cine_report(ROWS, "mstg", {"spacing": [1.5, 1.5, 3.15]}, warnings=["few"])
    again = json.loads(json.dumps(report, allow_nan=False))
    assert again["rows"][2]["psnr"] is None and again["rows"][0]["frames"] == ROWS[0]["frames"]
    assert (again["model"], again["mode"], again["n_patients"], again["n_rows"]) == ("mstg", "interpolation", 3, 3)
    assert again["means"]["psnr"]["n"] == 2 and again["warnings"] == ["few"] and "spread" not in again
    assert again["preprocessing"] == {"spacing": [1.5, 1.5, 3.15]}


def test_report_of_seeds_has_their_spread():
    spread = [entry | {"beat_difference": 0.25, "pairs": 3} for entry in seed_spread(BEATS)]
    report = build_cine_report(BEATS, "mstg", "none", spread)
    assert report["spread_means"]["beat_difference"] == {"mean": 0.25, "sd": 0.0, "n": 2}
    assert report["spread_means"]["ef_sd"]["n"] == 1
    assert (report["n_patients"], report["n_rows"]) == (2, 5)
