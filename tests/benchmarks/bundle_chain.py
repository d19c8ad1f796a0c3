"""
The life of every bundle, by the commands a user types: train an epoch, resume, infer, evaluate, export.

    OMP_NUM_THREADS=1 python tests/benchmarks/bundle_chain.py

Each bundle is copied alone into a folder and run from another one, on phantoms in the official layout of its data, with
the smallest settings of the tests. Prints wall times in seconds, start of Python and imports included, and stops at the
first command that fails or leaves no file.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from monai_mamba_gen.data import (
    write_acdc_phantom,
    write_brats_phantom,
    write_chestxray14_phantom,
    write_synthrad_phantom,
)

STEPS = ("first stage", "train", "resume", "infer", "evaluate", "export")


def helpers() -> Any:
    """Load the settings and the runner of the tests of bundles."""
    path = Path(__file__).resolve().parents[1] / "bundles" / "conftest.py"
    spec = importlib.util.spec_from_file_location("bundle_helpers", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["bundle_helpers"] = module
    spec.loader.exec_module(module)
    return module


def phantoms(root: Path) -> dict[str, Path]:
    cine = {"num_frames": 8, "shape": (32, 32, 4), "spacing": (3.0, 3.0, 12.0)}
    return {
        "acdc_slices": write_acdc_phantom(root / "acdc", num_patients=4, num_frames=4, shape=(32, 32, 4)),
        "brats2018": write_brats_phantom(root / "brats", num_patients=4, shape=(32, 32, 16)),
        "chestxray14": write_chestxray14_phantom(root / "nih", num_patients=16, size=32),
        "acdc_cine": write_acdc_phantom(root / "cine", num_patients=4, **cine),
        "synthrad2023": write_synthrad_phantom(root / "synthrad", num_patients=4, regions="brain", shape=(32, 30, 3)),
    }


def chain(tests: Any, bundle: Path, data: Path, root: Path) -> dict[str, float]:
    """Run all steps on a copy of a bundle and return their seconds."""
    copy = Path(shutil.copytree(bundle, root / "copy", ignore=shutil.ignore_patterns("models", "eval")))
    elsewhere = root / "elsewhere"
    elsewhere.mkdir()
    kind = "cine" if "cine" in bundle.name else "synthrad" if "synthrad" in bundle.name else "slices"
    training = {"slices": tests.TINY, "cine": tests.CINE_TINY, "synthrad": tests.DIFFMA_TINY}[kind]
    use = {"slices": {"batch_size": 4, "num_inference_steps": 3, "num_samples": 4}}
    use |= {"cine": tests.CINE_TINY_GENERATION, "synthrad": tests.DIFFMA_SHARED}
    given, network = {"bundle_root": copy, "dataset_dir": data}, dict(training)
    extractor = root / "extractor.json"
    extractor.write_text(json.dumps(tests.EXTRACTOR))
    scored = {"extra": extractor} if kind == "slices" else {}
    scoring = use[kind] | ({} if kind == "slices" else network) | {"batch_size": 4}
    commands = {
        "first stage": ("training", ["train_autoencoder"], network) if kind == "synthrad" else None,
        "train": ("training", ["train"], network),
        "resume": ("training", ["train"], network | {"max_epochs": 2, "resume": True}),
        "infer": ("inferring", ["inference"], use[kind]),
        "evaluate": ("evaluating", ["train", "evaluate"], scoring | scored),
    }
    spent = {}
    for step, command in commands.items():
        if command is None:
            continue
        run_id, names, settings = command
        parts = tests.arguments(copy, run_id, *names, **settings, **given)
        spent[step] = timed(tests, step, ["-W", "ignore", "-m", *parts], elsewhere)
    configs = copy / "configs"
    exported = copy / "models" / "model.ts"
    parts = ["monai.bundle", "ckpt_export", "--net_id", "network_def", "--config_file", str(configs / "inference.json")]
    parts += ["--meta_file", str(configs / "metadata.json"), "--ckpt_file", str(copy / "models" / "model.pt")]
    parts += ["--filepath", str(exported), "--bundle_root", str(copy)]
    own = {name: value for name, value in use[kind].items() if name in ("preset", "deformation_channels")}
    if kind == "synthrad":
        own |= {name: use[kind][name] for name in use[kind] if name.startswith(("autoencoder", "latent", "image"))}
    parts += [part for name, value in own.items() for part in (f"--{name}", str(value))]
    spent["export"] = timed(tests, "export", ["-W", "ignore", "-m", *parts], elsewhere)
    found = list(copy.glob("eval/**/manifest.jsonl")), list(copy.glob("eval/**/report.json"))
    if not (exported.is_file() and all(found)) or any(elsewhere.iterdir()):
        raise SystemExit(f"{bundle.name}: files are missing, or lie in the working directory")
    return spent


def timed(tests: Any, step: str, parts: list[str], cwd: Path) -> float:
    start = time.perf_counter()
    result = tests.run_command(*parts, cwd=cwd)
    if result.code:
        raise SystemExit(f"{step} failed with {result.code}: {' '.join(parts)}\n{result.err[-2000:]}")
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="bundles whose names begin so")
    args = parser.parse_args()
    tests = helpers()
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, torch {torch.__version__}\n")
    print(f"| bundle | {' | '.join(STEPS)} |\n|---|{'---:|' * len(STEPS)}")
    with tempfile.TemporaryDirectory() as folder:
        for name, data in phantoms(Path(folder)).items():
            if not name.startswith(args.only):
                continue
            bundle = next(path for path in tests.BUNDLES if path.name.startswith(name))
            root = Path(folder) / f"run_{name}"
            root.mkdir()
            spent = chain(tests, bundle, data, root)
            cells = [f"{spent[step]:.1f}" if step in spent else "" for step in STEPS]
            print(f"| {bundle.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
