"""A tiny phantom data set, and three ways to run a bundle: in this process, as a command, under torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import monai.bundle
import pytest
import torch
from monai.utils import set_determinism

from monai_mamba_gen.data import write_acdc_phantom

ROOT = Path(__file__).resolve().parents[2]
BUNDLES = sorted(path.parent for path in (ROOT / "bundles").glob("*/configs"))
TIME_LIMIT = 240  # seconds; a run takes about ten
TINY = {
    "preset": "micro",
    "image_size": [16, 16],
    "batch_size": 4,
    "max_epochs": 1,
    "learning_rate": 0.001,
    "warmup_steps": 4,
    "num_sample_images": 4,
    "sample_interval": 10,
    "num_inference_steps": 3,
}
TINY_GENERATION = {name: TINY[name] for name in ("preset", "image_size", "batch_size", "num_inference_steps")}
# Scores with features that need no weights file.
EXTRACTOR = {"extractor": {"_target_": "monai_mamba_gen.metrics.RandomConvFeatures", "dim": 8}}


def pytest_generate_tests(metafunc):
    """Run the tests that ask for ``bundle`` with every folder below bundles/."""
    if "bundle" in metafunc.fixturenames:
        metafunc.parametrize("bundle", BUNDLES, ids=lambda path: path.name)


def environment() -> dict[str, str]:
    """Return the environment of a child process: one thread, this checkout, no torchrun."""
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def run_here(bundle: Path, run_id: str, *names: str, extra: Path | None = None, **overrides) -> None:
    """Do in this process what ``python -m monai.bundle run <run_id>`` does with the named configs."""
    files = [str(bundle / "configs" / f"{name}.json") for name in names] + ([str(extra)] if extra else [])
    torch.set_num_threads(1)
    # MONAI warns of every config that it could hold code, and of files that are not side by side
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        monai.bundle.run(run_id=run_id, config_file=files, logging_file=False, **overrides)


def arguments(bundle: Path, run_id: str, *names: str, extra: Path | None = None, **overrides) -> list[str]:
    """Return what follows ``python -m`` in a command that runs a bundle."""
    files = [str(bundle / "configs" / f"{name}.json") for name in names] + ([str(extra)] if extra else [])
    pairs = [part for name, value in overrides.items() for part in (f"--{name}", str(value))]
    return ["monai.bundle", "run", run_id, "--config_file", str(files) if len(files) > 1 else files[0], *pairs]


def run_command(*parts: str, cwd: Path) -> SimpleNamespace:
    """Run ``python <parts>`` and return exit code, stdout and stderr."""
    result = subprocess.run(
        [sys.executable, *parts],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    return SimpleNamespace(code=result.returncode, out=result.stdout, err=result.stderr)


@pytest.fixture(scope="session")
def run():
    """Return the helpers, which the tests cannot import from here."""
    return SimpleNamespace(
        here=run_here,
        arguments=arguments,
        command=run_command,
        tiny=TINY,
        tiny_generation=TINY_GENERATION,
        acdc=ROOT / "bundles" / "acdc_slices_vm_ddpm_synthesis",
    )


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    """Four patients of eight slices each in ACDC's layout; three are for training."""
    return write_acdc_phantom(
        tmp_path_factory.mktemp("phantoms") / "acdc", num_patients=4, num_frames=4, shape=(32, 32, 4)
    )


@pytest.fixture(scope="session")
def extractor(tmp_path_factory) -> Path:
    """A config that replaces the feature network of evaluate.json."""
    path = tmp_path_factory.mktemp("configs") / "extractor.json"
    path.write_text(json.dumps(EXTRACTOR))
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory, phantoms) -> Path:
    """A folder with what an epoch of training leaves: models/ and eval/."""
    root = tmp_path_factory.mktemp("trained")
    hook = sys.excepthook
    run_here(
        ROOT / "bundles" / "acdc_slices_vm_ddpm_synthesis",
        "training",
        "train",
        bundle_root=str(root),
        dataset_dir=str(phantoms),
        **TINY,
    )
    sys.excepthook = hook
    return root


@pytest.fixture(autouse=True)
def keep_global_state():
    """Bundles seed everything, replace the exception hook and lower the number of threads."""
    hook, threads, deterministic = sys.excepthook, torch.get_num_threads(), torch.backends.cudnn.deterministic
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        yield
    set_determinism(None)
    torch.backends.cudnn.deterministic = deterministic
    torch.set_num_threads(threads)
    sys.excepthook = hook
