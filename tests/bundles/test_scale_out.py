"""Many images by many processes: killed and started again, by several jobs, scored from their folders."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("killed.py")
JOBS = ((0, 32), (32, 28))  # first seed and number: whole batches of four, so that they are those of one job


def do(run, root, steps):
    result = run.command(str(SCRIPT), json.dumps(steps), cwd=root)
    assert result.code == 0, result.err


def job(bundle, run_id, *names, extra=None, **settings):
    files = [str(bundle / "configs" / f"{name}.json") for name in names] + ([str(extra)] if extra else [])
    return {"run_id": run_id, "config_file": files, **settings}


def killed_twice(make, root, first, second):
    """Return the steps of a whole run, and of one by two processes and by one that is killed each time."""
    folder = str(root / "killed" / "eval" / "synthetic")
    kill = {"jobs": [make(str(root / "killed"))], "folder": folder}
    return [
        {"jobs": [make(str(root / "whole"))], "world": 1},
        {**kill, "world": 2, "kill": first},
        {**kill, "world": 1, "kill": second},
        {**kill, "world": 1, "kill": None},
    ]


def check(root, count):
    """Check that the killed run ended as the whole one: the same files, each in the manifest, and nothing else."""
    whole, killed = (root / name / "eval" / "synthetic" for name in ("whole", "killed"))
    contents = {path.name: path.read_bytes() for path in whole.iterdir() if path.name != "manifest.jsonl"}
    found = {path.name: path.read_bytes() for path in killed.iterdir() if path.name != "manifest.jsonl"}
    assert found.keys() == contents.keys() and found == contents
    text = (killed / "manifest.jsonl").read_text()
    assert text.endswith("\n")
    records = [json.loads(line) for line in text.splitlines()]
    listed = [name for record in records for name in record.get("files") or [record["file"]]]
    assert len(records) == count and len(set(listed)) == len(listed)
    assert set(listed) == found.keys() - {"grid.png"}
    for record in records:
        for name, digest in (record.get("files") or {record["file"]: record["sha256"]}).items():
            assert hashlib.sha256(found[name]).hexdigest() == digest, name
    expected = [json.loads(line) for line in open(whole / "manifest.jsonl")]
    assert [{**record, "date": ""} for record in records] == [{**record, "date": ""} for record in expected]


@pytest.fixture(scope="module")
def sampled(run, phantoms, trained, extractor, tmp_path_factory):
    """Sixty images: "whole", "killed", and by two jobs at once in "jobs"; scored by one, two and three processes."""
    root = tmp_path_factory.mktemp("sampled")
    tiny = {**run.tiny_generation, "num_inference_steps": 2, "weights": str(trained / "models" / "model.pt")}

    def make(bundle_root, **settings):
        settings = {**tiny, "num_samples": 60, "bundle_root": bundle_root, **settings}
        return job(run.acdc, "inferring", "inference", "multi_gpu_inference", **settings)

    part = str(root / "jobs" / "job_{}")
    steps = killed_twice(make, root, 7, 11)
    parts = [make("", output_dir=part.format(first), first_seed=first, num_samples=count) for first, count in JOBS]
    steps.append({"jobs": parts, "world": 1})

    def score(name, world, *names, **settings):
        settings = {**tiny, "dataset_dir": str(phantoms), "bundle_root": str(root / name), **settings}
        scoring = job(run.acdc, "evaluating", "train", "evaluate", *names, extra=extractor, **settings)
        return {"jobs": [scoring], "world": world}

    folder = {"synthetic_dir": str(root / "whole" / "eval" / "synthetic")}
    steps += [score(f"folder{world}", world, "evaluate_folder", **folder) for world in (1, 2, 3)]
    steps.append(score("folders", 2, "evaluate_folder", synthetic_dir=str(root / "jobs"), num_samples=60))
    steps.append(score("directly", 3, num_samples=60))
    do(run, root, steps)
    return root


def test_killed_sampling_ends_whole(sampled):
    check(sampled, 60)


def report(root, name):
    return json.loads((root / name / "eval" / "report.json").read_text())


@pytest.mark.parametrize("name", ["folder2", "folder3", "folders", "directly"])
def test_scores_do_not_depend_on_processes_folders_or_sampling_again(sampled, name):
    one, other = report(sampled, "folder1"), report(sampled, name)
    assert one["n_fake"] == other["n_fake"] == 60
    for part in ("synthetic_vs_real", "floor"):
        wanted = one[part]["frechet_distance"]
        assert wanted > 0 and other[part]["frechet_distance"] == pytest.approx(wanted, rel=1e-10)
        wanted = one[part]["kernel_distance"]["mean"]
        assert other[part]["kernel_distance"]["mean"] == pytest.approx(wanted, rel=1e-6)
    assert one["ms_ssim"] == other["ms_ssim"]


def test_jobs_that_write_at_once_each_have_a_folder(sampled):
    for first, count in JOBS:
        folder = sampled / "jobs" / f"job_{first}"
        seeds = [json.loads(line)["seed"] for line in open(folder / "manifest.jsonl")]
        assert seeds == list(range(first, first + count))
        for path in folder.glob("seed_*"):
            assert path.read_bytes() == (sampled / "whole" / "eval" / "synthetic" / path.name).read_bytes()


def test_killed_cines_end_whole(run, beats, cine_trained, tmp_path):
    settings = {**run.cine_tiny_generation, "weights": str(cine_trained / "models" / "model.pt"), "gif": True}
    settings |= {"dataset_dir": str(beats), "mode": "generation", "num_samples": 1}

    def make(bundle_root):
        return job(run.cine, "inferring", "inference", "multi_gpu_inference", bundle_root=bundle_root, **settings)

    do(run, tmp_path, killed_twice(make, tmp_path, 1, 2))
    check(tmp_path, 4)


def test_killed_volumes_end_whole_and_every_stage_trains_in_processes(run, pairs, diffma_trained, tmp_path):
    weights = {"weights": "model.pt", "autoencoder_weights": "autoencoder.pt"}
    settings = {key: str(diffma_trained / "models" / name) for key, name in weights.items()}

    def make(bundle_root):
        settings_ = {**run.diffma_tiny_inference, **settings, "dataset_dir": str(pairs), "bundle_root": bundle_root}
        settings_["displayable_configs#num_averages"] = 2  # standard deviations too: four files a volume
        return job(run.diffma, "inferring", "inference", "multi_gpu_inference", **settings_)

    common = {**run.diffma_tiny, "dataset_dir": str(pairs)}
    adversarial = ("train_autoencoder", "train_autoencoder_adversarial", "multi_gpu_train")
    stages = [
        job(run.diffma, "training", *adversarial, bundle_root=str(tmp_path / "adversarial"), **common),
        job(
            run.diffma,
            "training",
            "train_embedder",
            "multi_gpu_train",
            bundle_root=str(tmp_path / "embedder"),
            **common,
        ),
    ]
    stages[1]["autoencoder_weights"] = settings["autoencoder_weights"]
    steps = killed_twice(make, tmp_path, 1, 3)
    do(run, tmp_path, steps + [{"jobs": [stage], "world": 2} for stage in stages])
    check(tmp_path, 4)
    for stage in ("adversarial", "embedder"):
        assert list((tmp_path / stage / "models").rglob("*.pt")), stage
