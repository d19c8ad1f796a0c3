from __future__ import annotations

import csv
import json
import logging
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor, list_data_collate
from monai.engines import SupervisedEvaluator
from PIL import Image
from torch import nn

from monai_mamba_gen.engines import TranslationInferenceBatch
from monai_mamba_gen.handlers import TranslationReportHandler
from monai_mamba_gen.inferers import IntensityBaseline
from monai_mamba_gen.metrics import translation_scores
from monai_mamba_gen.utils import DataError

SIZE = (10, 9, 8)


def case(patient="1BA001", error=0.2, seed=0, std=None, **batch):
    """One batch and what the inferer makes of it: off by ``error`` inside the mask, by 5 outside."""
    generator = torch.Generator().manual_seed(seed)
    true, source = (torch.rand(1, 1, *SIZE, generator=generator) - 0.5 for _ in range(2))
    mask = torch.zeros(1, 1, *SIZE)
    mask[..., 2:8, 2:8, 1:7] = 1
    pred = true + torch.where(mask > 0, error, 5.0)
    batch = {"patient": [patient], "image": source, "target": true, "mask": mask} | batch
    spread = None if std is None else torch.where(mask > 0, std, 9.0)
    result = {"pred": pred, "std": spread, "seeds": [[0]], "mask": None}
    return {key: value for key, value in batch.items() if value is not None}, result


def run(folder, cases, inferer=None, **options):
    inferer = inferer or SimpleNamespace(result={})

    def step(engine, number):
        engine.state.batch, inferer.result = cases[number]

    engine = Engine(step)
    TranslationReportHandler(folder, inferer, "toy", options.pop("preprocessing", "none"), **options).attach(engine)
    metrics = engine.run(range(len(cases))).metrics
    return metrics, json.loads((folder / "report.json").read_text())


def test_hand_computed_row(tmp_path):
    metrics, report = run(tmp_path, [case(std=0.5, region=["brain"])])
    (row,) = report["rows"]
    assert row["mae"] == pytest.approx(0.1, rel=1e-5) and row["std"] == pytest.approx(0.25)
    assert row["psnr"] == pytest.approx(20, rel=1e-5)
    assert (row["patient"], row["region"], row["mask_voxels"]) == ("1BA001", "brain", 216)
    batch, result = case()
    expected = translation_scores(result["pred"][0, 0], batch["target"][0, 0], batch["mask"][0, 0])
    assert row["ssim"] == pytest.approx(expected["ssim"], abs=1e-9) and 0 < row["ssim"] < 1
    assert metrics == {key: pytest.approx(row[key]) for key in ("mae", "psnr", "ssim", "std")}
    assert (report["direction"], report["output_range"], report["data_range"]) == ("ct2mr", [0, 1], [0, 1])


def test_hounsfield_units_of_the_other_direction(tmp_path):
    batch, result = case()
    batch = {**batch, "image": batch["target"], "target": batch["image"]}
    inferer = SimpleNamespace(result={}, direction="mr2ct")
    options = {"output_range": (-1000, 1000), "data_range": (-1024, 3000)}
    _, report = run(tmp_path, [(batch, result)], inferer, **options)
    (row,) = report["rows"]
    assert row["mae"] == pytest.approx(200, rel=1e-5)
    assert row["psnr"] == pytest.approx(20 * math.log10(4024 / 200), rel=1e-5)


def test_means_and_files(tmp_path, caplog):
    cases = [
        case("1PA002", error=0.4, region=["pelvis"]),
        case("1BA001", region=["brain"], std=0.5),
        case("1BA003", error=0.0, region=["brain"]),
    ]
    with caplog.at_level(logging.INFO, logger="monai_mamba_gen.handlers.translation_report"):
        metrics, report = run(tmp_path, [*cases, cases[0]], preprocessing={"window": [-1000, 1000]})
    names = ["1BA001.png", "1BA003.png", "1PA002.png", "report.csv", "report.json", "report.md"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert [row["patient"] for row in report["rows"]] == ["1BA001", "1BA003", "1PA002"]
    assert metrics["mae"] == pytest.approx(0.1, rel=1e-5)
    assert report["means"]["mae"] == {"mean": metrics["mae"], "sd": pytest.approx(0.1, rel=1e-5), "n": 3}
    assert report["rows"][1]["psnr"] is None and report["means"]["psnr"]["n"] == 2
    assert report["region_means"]["brain"]["mae"]["n"] == 2 and "mask_voxels" not in report["means"]
    with (tmp_path / "report.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["psnr"] == "" for line in lines] == [False, True, False]
    table = (tmp_path / "report.md").read_text()
    assert table.startswith('Model: toy; direction: ct2mr; preprocessing: {"window": [-1000, 1000]}\n')
    assert "| patient | region | mae | psnr | ssim | std |" in table and "| 1PA002 | pelvis | 0.2 | " in table
    (line,) = [message for message in caplog.messages if message.startswith("toy, ct2mr of 3 patients: ")]
    assert "MAE 0.1, PSNR 16.99 (n = 2), SSIM " in line


def test_picture(tmp_path):
    """Source, truth, prediction and error of the middle slice of the mask; nothing true outside the mask."""
    run(tmp_path, [case()])
    with Image.open(tmp_path / "1BA001.png") as picture:
        assert picture.text["Synthetic"] == "true"
        pixels = np.asarray(picture)
    factor = 192 // 10
    width = factor * 10
    assert pixels.shape == (16 + factor * 9, 4 * width + 6)
    error = pixels[16:, 3 * (width + 2) :][::factor, ::factor]
    assert set(np.unique(error)) == {0, 102} and (error == 102).sum() == 36
    run(tmp_path / "none", [case()], picture=False)
    assert not list((tmp_path / "none").glob("*.png"))


def test_one_slice_and_the_inferers_own_mask(tmp_path):
    batch, result = case(mask=None)
    batch = {key: value[..., 4] if key != "patient" else value for key, value in batch.items()}
    mask = case()[0]["mask"][..., 4] > 0
    result = {"pred": result["pred"][..., 4], "std": None, "seeds": [[0]], "mask": mask}
    _, report = run(tmp_path, [(batch, result)])
    assert report["rows"][0]["mask_voxels"] == 36 and report["rows"][0]["mae"] == pytest.approx(0.1, rel=1e-5)


def test_mask_at_the_border_is_warned_of(tmp_path):
    mask = torch.zeros(1, 1, *SIZE)
    mask[..., :2, :, :] = 1
    _, report = run(tmp_path, [case(mask=mask)])
    assert report["rows"][0]["ssim"] is None
    assert report["warnings"] == ["patient 1BA001: no voxel of the mask has a whole window for SSIM"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": None}, "patient 1BA001: no 'target' in the batch"),
        ({"mask": None}, "patient 1BA001: no 'mask' in the batch, and the inferer was given none"),
        ({"mask": torch.zeros(1, 1, *SIZE)}, "patient 1BA001: 'mask' is empty"),
        ({"mask": torch.ones(1, 1, 10, 9, 7)}, r"patient 1BA001: 'mask' has shape \(10, 9, 7\)"),
        ({"target": torch.full((1, 1, *SIZE), math.nan)}, "patient 1BA001: 'target' holds NaN"),
        ({"patient": None}, "names no 'patient'"),
        ({"patient": ["../a"]}, "patient must consist"),
    ],
)
def test_faults_are_one_line_that_names_patient_and_key(tmp_path, change, message):
    with pytest.raises(DataError, match=message) as error:
        run(tmp_path, [case(**change)])
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_faults_of_what_was_made(tmp_path):
    batch, result = case()
    for changed, message in (
        ({}, "made nothing yet"),
        (result | {"pred": result["pred"].expand(2, -1, -1, -1, -1)}, "1 samples, the inferer made 2 volumes"),
        (result | {"pred": result["pred"] * math.nan}, "1BA001: the synthetic volume holds NaN"),
    ):
        with pytest.raises(DataError, match=message):
            run(tmp_path, [(batch, changed)])
    engine = Engine(lambda engine, batch: None)
    TranslationReportHandler(tmp_path, SimpleNamespace(), "toy", "none").attach(engine)
    with pytest.raises(DataError, match="made nothing yet"):
        engine.run([0])


@pytest.mark.parametrize("wrong", [{"preprocessing": ""}, {"output_range": (1, 1)}, {"data_range": (0, 1, 2)}])
def test_arguments(tmp_path, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TranslationReportHandler(tmp_path, None, "toy", **{"preprocessing": "none"} | wrong)


def test_second_run_starts_afresh(tmp_path):
    for name in ("a", "b"):
        run(tmp_path, [case(name)])
        assert [row["patient"] for row in json.loads((tmp_path / "report.json").read_text())["rows"]] == [name]


@pytest.mark.parametrize("decollate", [True, False])
def test_with_monai_evaluator_and_baseline(tmp_path, decollate):
    """The identity's error is the difference between the two images."""
    items = []
    for number in range(2):
        batch, _ = case(f"p{number}", seed=number)
        volumes = {key: MetaTensor(batch[key][0], affine=torch.eye(4)) for key in ("image", "target", "mask")}
        items.append({"patient": f"p{number}", **volumes})
    inferer = IntensityBaseline("identity")
    evaluator = SupervisedEvaluator(
        device="cpu",
        val_data_loader=[list_data_collate(items)],
        network=nn.Identity(),
        inferer=inferer,
        prepare_batch=TranslationInferenceBatch(),
        decollate=decollate,
        val_handlers=[TranslationReportHandler(tmp_path, inferer, "identity", "none")],
    )
    evaluator.run()
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    for row, item in zip(rows, items, strict=True):
        inside = item["mask"] > 0
        assert row["mae"] == pytest.approx(float((item["image"] - item["target"])[inside].abs().mean()) / 2, rel=1e-5)
    assert evaluator.state.metrics["mae"] == pytest.approx((rows[0]["mae"] + rows[1]["mae"]) / 2)
