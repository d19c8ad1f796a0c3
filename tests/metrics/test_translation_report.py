from __future__ import annotations

import json
import math

from monai_mamba_gen.metrics import build_translation_report, translation_table

ROWS = [
    {"patient": "1BA001", "region": "brain", "mae": 0.05, "psnr": 24.0, "ssim": 0.8, "mask_voxels": 900},
    {"patient": "1PA001", "region": "pelvis", "mae": 0.07, "psnr": math.inf, "ssim": None, "mask_voxels": 700},
]


def test_report_is_json_without_nan():
    report = build_translation_report(ROWS, "DiffMa", {"window": (-1000, 1000)}, data_range=(0, 2), warnings=["few"])
    again = json.loads(json.dumps(report, allow_nan=False))
    assert again["rows"][1]["psnr"] is None and again["means"]["psnr"] == {"mean": 24.0, "sd": None, "n": 1}
    assert list(again["means"]) == ["mae", "psnr", "ssim"]
    assert (again["output_range"], again["data_range"], again["warnings"]) == ([0, 1], [0, 2], ["few"])
    assert again["region_means"]["pelvis"]["ssim"] == {"mean": None, "sd": None, "n": 0}
    assert "region_means" not in build_translation_report(ROWS[:1], "DiffMa", "none")


def test_table():
    lines = translation_table(ROWS).splitlines()
    assert lines[0] == "| patient | region | mae | psnr | ssim |"
    assert lines[3] == "| 1PA001 | pelvis | 0.07 |  |  |"
    assert lines[-1] == "| n |  | 2 | 1 | 1 |" and {line.count("|") for line in lines} == {6}
