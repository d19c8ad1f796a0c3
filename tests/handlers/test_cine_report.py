import csv
import importlib.util
import json
import logging
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.engines import SupervisedEvaluator
from monai.inferers import Inferer
from torch import nn

from monai_mamba_gen.handlers import CineReportHandler
from monai_mamba_gen.utils.errors import DataError

SCRIPT = Path(__file__).with_name("cine_processes.py")
SIZE = (8, 8, 4)
PHASES = torch.tensor([0.0, 0.25, 0.5, 1.0])


def block(value, first, last, size=SIZE):
    """A label that fills rows ``first`` to ``last`` (not included) of the first axis."""
    label = torch.zeros(1, 1, *size)
    label[:, :, first:last, 1:7] = value
    return label


def shift(rows, phases=PHASES):
    """Frame p is the ED volume moved down by ``p * rows``: it pulls from above."""
    field = torch.zeros(1, len(phases), 3, *SIZE)
    field[:, :, 0] = -rows * phases.reshape(-1, 1, 1, 1)
    return field


def case(patient="patient081", mode="interpolation", rows=2, **batch):
    """One batch and what the inferer makes of it: true frames half way to the generated ones."""
    frames = PHASES.reshape(1, 4, 1, 1, 1).expand(1, 4, *SIZE) * 0.5
    affine = torch.diag(torch.tensor([-2.0, 2.5, 10.0, 1.0]))
    image = list_data_collate([{"image": MetaTensor(torch.zeros(1, *SIZE), affine=affine)}])["image"]
    batch = {
        "patient": [patient],
        "image": image,
        "target": torch.full((1, 1, *SIZE), 0.25),
        "label": block(3, 0, 4),
        "target_label": block(3, 2, 4),
        "frames": frames[:, 1:3] + 0.1,
        "phases": PHASES[None, 1:3].clone(),
    } | batch
    result = {"frames": frames, "displacement": shift(rows), "phases": PHASES, "mode": mode}
    return {key: value for key, value in batch.items() if value is not None}, result


def run(folder, cases, **options):
    inferer = SimpleNamespace(result={})

    def step(engine, number):
        engine.state.batch, inferer.result = cases[number]

    engine = Engine(step)
    CineReportHandler(folder, inferer, "toy", "crop of 8 x 8 x 4", **options).attach(engine)
    metrics = engine.run(range(len(cases))).metrics
    return metrics, json.loads((Path(folder) / "report.json").read_text())


def test_hand_computed_row(tmp_path):
    """A cavity of rows 0-3 moves by 2; border padding keeps rows 0 and 1 filled: rows 0-5 against the true 2-3."""
    metrics, report = run(tmp_path, [case()])
    (row,) = report["rows"]
    assert [frame["phase"] for frame in row["frames"]] == [0.25, 0.5]
    assert row["psnr"] == pytest.approx(-10 * math.log10(0.05**2), rel=1e-4)
    expected = [0.05**2 / ((value + 0.1 + 1) / 2) ** 2 for value in (0.125, 0.25)]
    assert [frame["nmse"] for frame in row["frames"]] == pytest.approx(expected, rel=1e-4)
    assert row["nmse"] == pytest.approx(sum(expected) / 2, rel=1e-4)
    assert row["es_psnr"] == pytest.approx(-10 * math.log10(0.125**2), rel=1e-4)
    assert row["dice_LV"] == row["dice_mean"] == pytest.approx(2 * 2 / (6 + 2))
    assert row["dice_before_LV"] == pytest.approx(2 * 2 / (4 + 2))
    assert row["dice_RV"] is row["dice_Myo"] is None
    assert row["dice_phase_0"] == 1.0
    assert (row["ef_true"], row["ef_predicted"]) == (0.5, -0.5)
    assert row["ef_error_points"] == pytest.approx(100)
    voxels, ml = 6 * 4, 2 * 2.5 * 10 / 1000
    assert row["volume_unit"] == "ml"
    found = [row[f"volume_{moment}_LV"] for moment in ("ed", "es", "es_true")]
    assert found == pytest.approx([4 * voxels * ml, 6 * voxels * ml, 2 * voxels * ml])
    assert row["volume_ed_RV"] is None
    assert row["non_positive_jacobian"] == 0
    assert row["temporal_smoothness"] == pytest.approx((0 + 0.125) / 2 / (0.5 / 3), rel=1e-4)
    assert row["temporal_smoothness_true"] == pytest.approx(0.1625 / (0.45 / 3), rel=1e-4)
    assert metrics["dice_LV"] == row["dice_LV"] and math.isnan(metrics["dice_RV"])
    assert report["mode"] == "interpolation" and report["preprocessing"] == "crop of 8 x 8 x 4"


def test_means_and_files(tmp_path, caplog):
    no_frames = case("patient001", rows=0, frames=None, phases=None, group=["DCM"])
    with caplog.at_level(logging.INFO, logger="monai_mamba_gen.handlers.cine_report"):
        metrics, report = run(tmp_path, [case("patient002"), no_frames])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.csv", "report.json", "report.md"]
    assert [row["patient"] for row in report["rows"]] == ["patient001", "patient002"]
    first, second = report["rows"]
    assert first["psnr"] is None and first["group"] == "DCM" and "group" not in second
    assert report["means"]["psnr"]["n"] == 1 and metrics["psnr"] == second["psnr"]
    assert first["dice_LV"] == first["dice_before_LV"] and first["ef_predicted"] == 0
    assert metrics["dice_LV"] == pytest.approx((first["dice_LV"] + second["dice_LV"]) / 2)
    with (tmp_path / "report.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["patient"] for line in lines] == ["patient001", "patient002"]
    assert lines[0]["psnr"] == "" and float(lines[1]["psnr"]) == second["psnr"] and "frames" not in lines[0]
    table = (tmp_path / "report.md").read_text()
    assert "preprocessing: crop of 8 x 8 x 4" in table and "| patient001 |" in table and "dice_RV" not in table
    (line,) = [message for message in caplog.messages if message.startswith("toy, interpolation of 2 patients: ")]
    assert "PSNR 26.02 (n = 1)" in line and "Dice 0.5833, " in line


def test_structure_not_drawn_at_end_systole(tmp_path):
    """Sunnybrook's ES labels have the cavity but no myocardium."""
    label = block(3, 0, 4) + block(2, 4, 6)
    _, report = run(tmp_path, [case("a", label=label), case("b", label=label, target_label=label)])
    assert [row["dice_Myo"] is None for row in report["rows"]] == [True, False]
    assert report["means"]["dice_Myo"]["n"] == 1 and report["means"]["dice_LV"]["n"] == 2
    assert report["rows"][0]["dice_mean"] == report["rows"][0]["dice_LV"]
    assert report["rows"][0]["volume_es_true_Myo"] is None and report["rows"][0]["volume_es_Myo"] > 0


def test_cavity_not_drawn_has_no_ejection_fraction(tmp_path):
    _, report = run(tmp_path, [case(target_label=block(2, 2, 4))])
    (row,) = report["rows"]
    assert row["ef_true"] is row["ef_error_points"] is None and row["ef_predicted"] == -0.5


def test_folding_is_counted_at_end_systole(tmp_path):
    batch, result = case()
    result["displacement"] = result["displacement"].clone()
    result["displacement"][0, 3, 0] = -2 * torch.arange(8.0)[:, None, None]
    _, report = run(tmp_path, [(batch, result)])
    assert report["rows"][0]["non_positive_jacobian"] == 1


def test_anatomy_not_kept_at_phase_0_shows(tmp_path):
    batch, result = case()
    result["displacement"] = result["displacement"].clone()
    result["displacement"][0, 0, 0] = -1
    _, report = run(tmp_path, [(batch, result)])
    assert report["rows"][0]["dice_phase_0"] == pytest.approx(2 * 4 / (5 + 4))


def test_without_labels(tmp_path):
    cases = [case("patient007", label=None), case("patient007", target_label=None)]
    for (batch, result), key in zip(cases, ("label", "target_label"), strict=True):
        with pytest.raises(DataError, match=f"^patient patient007: no '{key}' in the batch") as error:
            run(tmp_path, [(batch, result)])
        assert "\n" not in str(error.value)
        _, report = run(tmp_path, [(batch, result)], require_labels=False)
        (row,) = report["rows"]
        assert row["dice_LV"] is None and row["ef_error_points"] is None and row["psnr"] > 0
        assert (row["ef_predicted"] is None) == (key == "label")


def test_frames_at_other_phases_are_left_out_and_named(tmp_path):
    phases = torch.tensor([[0.25, 0.6]])
    _, report = run(tmp_path, [case(phases=phases)])
    (row,) = report["rows"]
    assert (row["true_frames"], row["compared_frames"]) == (2, 1)
    assert [frame["phase"] for frame in row["frames"]] == [0.25]
    assert report["warnings"] == ["patient patient081: 1 of 2 true frames have no generated frame at their phase"]


def test_end_systole_is_the_largest_phase(tmp_path):
    batch, result = case()
    batch |= {"frames": batch["frames"][:, :1], "phases": batch["phases"][:, :1]}
    result = result | {key: result[key][:, [2, 0, 1]] for key in ("frames", "displacement")}
    _, report = run(tmp_path, [(batch, result | {"phases": PHASES[[2, 0, 1]]})])
    (row,) = report["rows"]
    assert row["es_phase"] == 0.5 and row["es_psnr"] is None and "phase 0.5, not 1" in report["warnings"][0]
    assert row["dice_LV"] == pytest.approx(2 * 2 / (5 + 2)) and row["dice_phase_0"] == 1


def test_voxels_without_geometry(tmp_path):
    _, report = run(tmp_path, [case(image=torch.zeros(1, 1, *SIZE))])
    assert report["rows"][0]["volume_unit"] == "voxels" and report["rows"][0]["volume_ed_LV"] == 96


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": torch.zeros(1, 1, 8, 8, 5)}, r"'label' must be \(C, \*\(8, 8, 4\)\), got \(1, 8, 8, 5\)"),
        ({"label": block(0.5, 0, 4)}, "'label' holds values that are no whole numbers"),
        ({"target": torch.full((1, 1, *SIZE), math.nan)}, "'target' holds NaN"),
        ({"phases": torch.tensor([[0.25]])}, "2 'frames' but 1 'phases'"),
        ({"phases": None}, "'frames' without 'phases'"),
    ],
)
def test_faults_name_patient_and_key(tmp_path, change, message):
    with pytest.raises(DataError, match=f"patient patient081: {message}"):
        run(tmp_path, [case(**change)])
    assert not list(tmp_path.iterdir())


def test_faults_of_what_was_generated(tmp_path):
    batch, result = case()
    with pytest.raises(DataError, match="generated frames hold NaN"):
        run(tmp_path, [(batch, result | {"frames": result["frames"] * math.inf})])
    with pytest.raises(DataError, match="1 samples, the inferer made 2 cines"):
        run(tmp_path, [(batch, result | {"frames": result["frames"].expand(2, -1, -1, -1, -1)})])
    with pytest.raises(DataError, match="made nothing"):
        run(tmp_path, [(batch, {})])
    with pytest.raises(DataError, match="names no 'patient'"):
        run(tmp_path, [({"image": batch["image"]}, result)])
    with pytest.raises(DataError, match="patient081: no 'seed'"):
        run(tmp_path, [(batch, result | {"mode": "generation"})])


@pytest.mark.parametrize("wrong", [{"preprocessing": ""}, {"ejection_structure": "Epi"}, {"compared_seeds": -1}])
def test_arguments(tmp_path, wrong):
    options = {"preprocessing": "none"} | wrong
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CineReportHandler(tmp_path, None, "toy", **options)


def test_generation_needs_no_target_and_shows_the_spread(tmp_path, caplog):
    cases = []
    for seed, rows in ((5, 2), (3, 1), (4, 0)):
        batch, result = case(mode="generation", rows=rows, target=None, target_label=None, seed=torch.tensor([seed]))
        cases.append((batch, result | {"frames": result["frames"] * rows}))
    with caplog.at_level(logging.INFO, logger="monai_mamba_gen.handlers.cine_report"):
        metrics, report = run(tmp_path, cases)
    assert [(row["seed"], row["ef_predicted"]) for row in report["rows"]] == [(3, -0.25), (4, 0), (5, -0.5)]
    assert {row["dice_phase_0"] for row in report["rows"]} == {1.0}
    assert not any(key.startswith(("dice_LV", "psnr", "es_psnr", "ef_error")) for key in report["rows"][0])
    (spread,) = report["spread"]
    assert (spread["ef_min"], spread["ef_max"], spread["ef_sd"], spread["pairs"]) == (-0.5, 0, 0.25, 3)
    assert spread["beat_difference"] == pytest.approx(float(PHASES.mean()) / 2 * (1 + 1 + 2) / 3, rel=1e-3)
    assert metrics["beat_difference"] == spread["beat_difference"] and metrics["ef_sd"] == 0.25
    assert "| patient | ef_mean | ef_min | ef_max | ef_sd | beat_difference |" in (tmp_path / "report.md").read_text()
    assert any("of 1 patients, 3 beats: " in message for message in caplog.messages)


def test_beats_kept_are_those_of_the_lowest_seeds(tmp_path):
    cases = []
    for seed in (9, 1, 2, 0):
        batch, result = case(mode="generation", seed=torch.tensor([seed]))
        cases.append((batch, result | {"frames": torch.full_like(result["frames"], seed / 16)}))
    _, report = run(tmp_path, cases, compared_seeds=2)
    assert report["spread"][0]["pairs"] == 1 and report["spread"][0]["beat_difference"] == 1 / 16
    _, report = run(tmp_path, cases, compared_seeds=0)
    assert "beat_difference" not in report["spread"][0] and report["spread"][0]["seeds"] == 4


def test_second_run_starts_afresh(tmp_path):
    inferer = SimpleNamespace(result={})
    names = iter(("a", "b"))

    def step(engine, _):
        engine.state.batch, inferer.result = case(next(names))

    engine = Engine(step)
    CineReportHandler(tmp_path, inferer, "toy", "none").attach(engine)
    for name in ("a", "b"):
        engine.run([0])
        assert [row["patient"] for row in json.loads((tmp_path / "report.json").read_text())["rows"]] == [name]


class ToyInferer(Inferer):
    """What the handler reads of a `CineInferer`."""

    def __call__(self, inputs, network, *args, **kwargs):
        _, made = case()
        count = len(inputs)
        self.result = {key: value.expand(count, *value.shape[1:]) for key, value in made.items() if key[0] in "fd"}
        self.result |= {"phases": PHASES.expand(count, -1), "mode": "interpolation"}
        return self.result["frames"]


@pytest.mark.parametrize("decollate", [True, False])
def test_with_monai_evaluator(tmp_path, decollate):
    """MONAI's evaluator has decollated its batch when an iteration completes."""
    batch = list_data_collate([*decollate_batch(case()[0]), *decollate_batch(case("patient082")[0])])
    inferer = ToyInferer()
    evaluator = SupervisedEvaluator(
        device="cpu",
        val_data_loader=[batch],
        network=nn.Identity(),
        inferer=inferer,
        prepare_batch=lambda batchdata, *args, **kwargs: (batchdata["image"], batchdata["target"]),
        decollate=decollate,
        val_handlers=[CineReportHandler(tmp_path, inferer, "toy", "none")],
    )
    evaluator.run()
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert [row["patient"] for row in rows] == ["patient081", "patient082"]
    assert rows[0]["volume_ed_LV"] == pytest.approx(4 * 24 * 0.05) and rows[0]["dice_LV"] == 0.5
    assert evaluator.state.metrics["dice_LV"] == 0.5


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_two_processes_report_what_one_does(tmp_path):
    spec = importlib.util.spec_from_file_location("cine_processes", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    root = str(SCRIPT.parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([root, *sys.path])}
    subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], check=True, timeout=120, env=environment)
    one = module.run(str(tmp_path / "one"), [("a", 0), ("a", 1), ("a", 2), ("a", 3), ("b", 1), ("b", 2)])
    for rank in range(2):
        assert torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) == one
    for name in ("report.json", "report.csv", "report.md"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes(), name
    assert one["beat_difference"] == pytest.approx(((0.1 + 0.1 + 0.2) / 3 + 0.1) / 2, rel=1e-3)
