"""A tiny phantom data set, and three ways to run a bundle: in this process, as a command, under torchrun."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import monai.bundle
import pytest
import torch
from monai.utils import set_determinism

from monai_mamba_gen.data import (
    write_acdc_phantom,
    write_brats_phantom,
    write_chestxray14_phantom,
    write_synthrad_phantom,
)

ROOT = Path(__file__).resolve().parents[2]
BUNDLES = sorted(path.parent for path in (ROOT / "bundles").glob("*/configs"))
PREFIX = "monai_mamba_gen: error: "
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
CINE_TINY = {
    "preset": "tiny",
    "deformation_channels": [4, 4, 4, 4],
    "integration_steps": 2,
    "image_size": [16, 16, 4],
    "pixdim": [4.0, 4.0, 12.0],
    "max_epochs": 1,
    "learning_rate": 0.001,
    "warmup_steps": 2,
    "ema_decay": 0.5,
    "val_interval": 1,
    "num_supervised_frames": 1,
    "num_sample_images": 1,
    "num_inference_steps": 3,
}
CINE_SHARED = ("preset", "deformation_channels", "integration_steps", "image_size", "pixdim")
CINE_TINY_GENERATION = {name: CINE_TINY[name] for name in CINE_SHARED} | {"num_inference_steps": 3, "num_frames": 4}
DIFFMA_SHARED = {
    "autoencoder_channels": [8, 8, 16],
    "autoencoder_res_blocks": 1,
    "autoencoder_norm_groups": 4,
    "latent_channels": 2,
    "image_size": [32, 32],
    "pixdim": [-1.0, -1.0, -1.0],
    "preset": "tiny/2",
    "num_inference_steps": 2,
    "amp": False,
}
DIFFMA_TINY = DIFFMA_SHARED | {
    "autoencoder_batch_size": 4,
    "autoencoder_learning_rate": 0.003,
    "autoencoder_warmup_steps": 2,
    "autoencoder_epochs": 1,
    "autoencoder_ema_decay": 0.5,
    "embedder_batch_size": 4,
    "embedder_epochs": 1,
    "embedder_warmup_steps": 2,
    "batch_size": 4,
    "learning_rate": 0.001,
    "warmup_steps": 2,
    "max_epochs": 1,
    "ema_decay": 0.5,
    "cache": False,
    "num_sample_images": 2,
}
TINY_GENERATION = {name: TINY[name] for name in ("preset", "image_size", "batch_size", "num_inference_steps")}
# Scores with features that need no weights file.
EXTRACTOR = {"extractor": {"_target_": "monai_mamba_gen.metrics.RandomConvFeatures", "dim": 8}}


def pytest_generate_tests(metafunc):
    """Run the tests that ask for ``bundle`` with every bundle, and those for ``any_config`` with all their configs."""
    if "any_config" in metafunc.fixturenames:
        pairs = [(bundle, path.stem) for bundle in BUNDLES for path in sorted(bundle.glob("configs/*.json"))]
        metafunc.parametrize(("bundle", "any_config"), pairs, ids=[f"{bundle.name}-{name}" for bundle, name in pairs])
    elif "bundle" in metafunc.fixturenames:
        metafunc.parametrize("bundle", BUNDLES, ids=lambda path: path.name)


def environment() -> dict[str, str]:
    """Return the environment of a child process: one thread, this checkout, no torchrun."""
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def the_one_line(out: str, err: str) -> str:
    """Return the error's text after checking that it is all that is said about it."""
    assert "Traceback" not in out + err and "terminating due to exception" not in out + err
    lines = [line for line in err.splitlines() if "rror" in line and not line.isspace()]
    assert len(lines) == 1 and lines[0].startswith(PREFIX), lines
    assert err.rstrip().endswith(lines[0]), "the error is the last thing said"
    return lines[0].removeprefix(PREFIX)


def written(root: Path) -> list[str]:
    """Return what a run left; an event file that TensorBoard opens at once and never writes to is none of ours."""
    files = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
    return [name for name in files if "tfevents" not in name]


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
        bundles=BUNDLES,
        acdc=ROOT / "bundles" / "acdc_slices_vm_ddpm_synthesis",
        brats=ROOT / "bundles" / "brats2018_slices_vm_ddpm_synthesis",
        chest=ROOT / "bundles" / "chestxray14_vm_ddpm_synthesis",
        cine=ROOT / "bundles" / "acdc_cine_mstg_synthesis",
        cine_tiny=CINE_TINY,
        cine_tiny_generation=CINE_TINY_GENERATION,
        diffma=ROOT / "bundles" / "synthrad2023_ct2mr_diffma_synthesis",
        diffma_tiny=DIFFMA_TINY,
        diffma_tiny_inference=DIFFMA_SHARED,
        the_one_line=the_one_line,
        written=written,
    )


@pytest.fixture
def refuse(run, capfd, tmp_path):
    """Return a function that runs configs that must fail, and gives the one line of the error."""

    def call(run_id, *names, root=tmp_path / "root", bundle=run.acdc, **overrides):
        root.mkdir(exist_ok=True)
        before = written(root)
        gc.collect()  # progress bars that an earlier test left write to the terminal when they go
        capfd.readouterr()
        with pytest.raises(Exception) as caught:  # noqa: PT011 - what the user sees is compared, not the type
            run.here(bundle, run_id, *names, bundle_root=str(root), **overrides)
        sys.excepthook(caught.type, caught.value, caught.tb)
        line = the_one_line(*capfd.readouterr())
        assert written(root) == before
        return line

    return call


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    """Four patients of eight slices each in ACDC's layout; three are for training."""
    return write_acdc_phantom(
        tmp_path_factory.mktemp("phantoms") / "acdc", num_patients=4, num_frames=4, shape=(32, 32, 4)
    )


@pytest.fixture(scope="session")
def brains(tmp_path_factory) -> Path:
    """Four patients in BraTS 2018's layout; three are for training."""
    return write_brats_phantom(tmp_path_factory.mktemp("brains") / "brats", num_patients=4, shape=(32, 32, 16))


@pytest.fixture(scope="session")
def chests(tmp_path_factory) -> Path:
    """Sixteen patients with two chest X-rays each in ChestX-ray14's layout."""
    return write_chestxray14_phantom(tmp_path_factory.mktemp("chests") / "nih", num_patients=16, size=32)


@pytest.fixture
def vm_ddpm(request):
    """Return the folder and the phantoms of a bundle of VM-DDPM by its short name."""
    data = {"acdc": "phantoms", "brats": "brains", "chest": "chests"}

    def call(name):
        return getattr(request.getfixturevalue("run"), name), request.getfixturevalue(data[name])

    return call


@pytest.fixture(scope="session")
def beats(tmp_path_factory) -> Path:
    """Four patients with cine series in ACDC's layout; three are for training."""
    root = tmp_path_factory.mktemp("beats") / "acdc"
    return write_acdc_phantom(root, num_patients=4, num_frames=8, shape=(32, 32, 4), spacing=(3.0, 3.0, 12.0))


@pytest.fixture(scope="session")
def pairs(tmp_path_factory) -> Path:
    """Four heads in SynthRAD2023's layout, CT and MR of three slices each; three are for training."""
    root = tmp_path_factory.mktemp("pairs") / "synthrad"
    return write_synthrad_phantom(root, num_patients=4, regions="brain", shape=(32, 30, 3))


@pytest.fixture(scope="session")
def extractor(tmp_path_factory) -> Path:
    """A config that replaces the feature network of evaluate.json."""
    path = tmp_path_factory.mktemp("configs") / "extractor.json"
    path.write_text(json.dumps(EXTRACTOR))
    return path


def train_an_epoch(name: str, root: Path, config: str = "train", **settings) -> Path:
    """Train a bundle and return the folder with what that leaves: models/ and eval/."""
    hook = sys.excepthook
    run_here(ROOT / "bundles" / name, "training", config, bundle_root=str(root), **settings)
    sys.excepthook = hook
    return root


@pytest.fixture(scope="session")
def trained(tmp_path_factory, phantoms) -> Path:
    """A folder with what an epoch of training of the first bundle leaves."""
    root = tmp_path_factory.mktemp("trained")
    return train_an_epoch("acdc_slices_vm_ddpm_synthesis", root, dataset_dir=str(phantoms), **TINY)


@pytest.fixture(scope="session")
def cine_trained(tmp_path_factory, beats) -> Path:
    """A folder with what an epoch of training of the cine bundle leaves."""
    root = tmp_path_factory.mktemp("cine_trained")
    return train_an_epoch("acdc_cine_mstg_synthesis", root, dataset_dir=str(beats), **CINE_TINY)


@pytest.fixture(scope="session")
def autoencoder(tmp_path_factory, pairs) -> Path:
    """A folder with what an epoch of the DiffMa bundle's first stage leaves."""
    root = tmp_path_factory.mktemp("autoencoder")
    name = "synthrad2023_ct2mr_diffma_synthesis"
    return train_an_epoch(name, root, "train_autoencoder", dataset_dir=str(pairs), **DIFFMA_TINY)


@pytest.fixture(scope="session")
def diffma_trained(tmp_path_factory, pairs, autoencoder) -> Path:
    """A folder with what an epoch of both stages of the DiffMa bundle leaves."""
    root = tmp_path_factory.mktemp("diffma_trained") / "root"
    shutil.copytree(autoencoder, root)
    return train_an_epoch("synthrad2023_ct2mr_diffma_synthesis", root, dataset_dir=str(pairs), **DIFFMA_TINY)


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
