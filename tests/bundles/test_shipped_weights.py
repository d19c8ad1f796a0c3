"""Weights that come with a bundle: complete, small, documented, and of what they are said to be of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from monai_mamba_gen.utils import weights_sha256

ROOT = Path(__file__).resolve().parents[2]
BUNDLES = [
    folder.parent for folder in sorted((ROOT / "bundles").glob("*/models")) if (folder / "model.safetensors").is_file()
]
LARGEST = 25 * 2**20
SEEDS = range(12)


def chest(images: torch.Tensor) -> bool:
    """Say whether images (N, 1, X, Y) show on average two dark lungs, a bright spine between, a bright belly below."""
    mean = images.mean(dim=(0, 1))
    rows = slice(20, 36)
    left, spine, right = (mean[columns, rows].mean() for columns in (slice(14, 24), slice(29, 35), slice(40, 50)))
    belly = mean[20:44, 52:62].mean()
    return bool(min(spine, belly) > max(left, right) + 0.3)


ANATOMY: dict[str, Callable[[torch.Tensor], bool]] = {"chestxray14_vm_ddpm_synthesis": chest}


@pytest.fixture(params=BUNDLES, ids=lambda path: path.name)
def shipped(request) -> Path:
    return request.param


def parsed(bundle: Path, **overrides) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    parser.update({"bundle_root": str(bundle), "device": "cpu"} | overrides)
    return parser


def test_there_are_some():
    assert {bundle.name for bundle in BUNDLES} == set(ANATOMY), "each has a test of what its images show"


def test_both_files_hold_the_same_and_are_small(shipped):
    load_file = pytest.importorskip("safetensors.torch").load_file
    first, second = shipped / "models" / "model.pt", shipped / "models" / "model.safetensors"
    assert max(first.stat().st_size, second.stat().st_size) < LARGEST
    expected, found = torch.load(first, weights_only=True), load_file(second)
    assert expected.keys() == found.keys() and all(torch.equal(expected[key], found[key]) for key in found)


def test_the_pages_name_file_data_and_licence(shipped):
    page = (shipped / "docs" / "README.md").read_text(encoding="utf-8")
    assert weights_sha256(shipped / "models" / "model.pt") in page
    assert "No weights are shipped" not in page
    terms = (shipped / "docs" / "data_license.txt").read_text(encoding="utf-8")
    assert "models/model.pt" in terms and "CC BY" in terms


def test_commands_need_no_settings(shipped):
    """The network of `inference.json` and, to go on from the weights, of `train.json` is theirs."""
    facts = json.loads((shipped / "models" / "model.json").read_text())
    state = torch.load(shipped / "models" / "model.pt", weights_only=True)
    train = ConfigParser()
    train.read_config(shipped / "configs" / "train.json")
    train.update({"bundle_root": str(shipped), "initial_weights": str(shipped / "models" / "model.pt")})
    for parser in (parsed(shipped), train):
        for key in ("preset", "image_size", "prediction_type"):
            assert parser.get_parsed_content(key) == facts[key]
        parser.get_parsed_content("network_def").load_state_dict(state)


@pytest.mark.parametrize("trained", [True, False])
def test_images_show_what_the_bundle_is_about(shipped, trained):
    """And an untrained network's do not, so that the test can fail."""
    parser = parsed(shipped, num_inference_steps=10, num_samples=len(SEEDS), batch_size=len(SEEDS))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = parser.get_parsed_content("network_def").eval()
    if trained:
        network.load_state_dict(torch.load(shipped / "models" / "model.pt", weights_only=True))
    sampler = parser.get_parsed_content("inferer")
    size = parser.get_parsed_content("image_size")
    images = sampler(torch.zeros(len(SEEDS), 1, *size), network, seeds=SEEDS)
    assert ANATOMY[shipped.name](images) is trained
