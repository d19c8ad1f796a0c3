"""What `serve.py` asks of each bundle: its data, a tiny network, and the requests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser
from PIL import Image

from monai_mamba_gen.data import (
    write_acdc_phantom,
    write_brats_phantom,
    write_chestxray14_phantom,
    write_synthrad_phantom,
)

VM_DDPM = {"preset": "micro", "image_size": [32, 32], "batch_size": 4, "num_inference_steps": 4, "num_sample_images": 2}
MSTG = {
    "preset": "tiny",
    "deformation_channels": [4, 4, 4, 4],
    "integration_steps": 2,
    "image_size": [16, 16, 4],
    "pixdim": [4.0, 4.0, 12.0],
    "num_inference_steps": 3,
    "num_frames": 4,
    "val_interval": 1,
}
DIFFMA = {
    "autoencoder_channels": [8, 8, 16],
    "autoencoder_res_blocks": 1,
    "autoencoder_norm_groups": 4,
    "latent_channels": 2,
    "image_size": [32, 32],
    "pixdim": [-1.0, -1.0, -1.0],
    "preset": "tiny/2",
    "num_inference_steps": 2,
    "batch_size": 4,
    "cache": False,
}


@dataclass
class Request:
    """A request for a file."""

    image: str
    params: dict[str, Any] = field(default_factory=dict)
    upload: bool = False
    refused: bool = False
    same: bool = False


@dataclass
class Case:
    """What is asked of one bundle."""

    bundle: str
    tiny: dict[str, Any]
    write: Callable[[Path, Path], None]
    requests: list[Request]
    batch_images: str = "unlabeled"
    batch_count: int = 2
    batch_params: dict[str, Any] = field(default_factory=dict)


def copy_bundle(bundle: Path, root: Path, tiny: dict[str, Any]) -> Path:
    """Copy a bundle alone, make its network tiny, and give it random weights."""
    shutil.copytree(bundle, root, ignore=shutil.ignore_patterns("models", "eval"))
    (root / "models").mkdir()
    for name in ("inference", "train"):
        path = root / "configs" / f"{name}.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps(config | {key: value for key, value in tiny.items() if key in config}))
    parser = ConfigParser()
    parser.read_config(str(root / "configs" / "inference.json"))
    parser["bundle_root"] = str(root)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(parser.get_parsed_content("network_def").state_dict(), root / "models" / "model.pt")
        if "latent_space_def" in parser:
            state = parser.get_parsed_content("latent_space_def").state_dict()
            state["scale_factor"] = torch.ones_like(state["scale_factor"])
            torch.save(state, root / "models" / "autoencoder.pt")
    return root


def keep(studies: Path, name: str, image: Path, label: Path | None = None) -> None:
    """Put an image into a datastore, with a final label where there is one."""
    studies.mkdir(parents=True, exist_ok=True)
    shutil.copy(image, studies / name)
    if label is not None:
        (studies / "labels" / "final").mkdir(parents=True, exist_ok=True)
        shutil.copy(label, studies / "labels" / "final" / name)


def write_slice(volume: Path, path: Path) -> None:
    """Write the middle slice of a volume as a file of two dimensions, not square, with its affine."""
    image = nib.load(volume)
    values = image.get_fdata()[:, :-6, image.shape[2] // 2].astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, image.affine), path)
    scaled = np.round(np.clip(values / max(values.max(), 1), 0, 1) * 255).astype(np.uint8)
    Image.fromarray(scaled.T).save(path.parent / "picture.png")


def write_acdc(studies: Path, phantoms: Path) -> None:
    root = write_acdc_phantom(phantoms, num_patients=4, num_frames=4, shape=(40, 40, 5))
    for number, folder in enumerate(sorted((root / "training").glob("patient*"))):
        first = sorted(folder.glob("*_frame*.nii.gz"))[0]
        keep(studies, f"case{number}.nii.gz", first, first.with_name(first.name.replace(".nii.gz", "_gt.nii.gz")))
    write_slice(first, studies / "slice.nii.gz")


def write_brats(studies: Path, phantoms: Path) -> None:
    root = write_brats_phantom(phantoms, num_patients=4, shape=(40, 40, 24))
    for number, image in enumerate(sorted(root.rglob("*_t1ce.nii.gz"))):
        keep(studies, f"case{number}.nii.gz", image, image.with_name(image.name.replace("_t1ce", "_seg")))
    write_slice(image, studies / "slice.nii.gz")


def write_chest(studies: Path, phantoms: Path) -> None:
    root = write_chestxray14_phantom(phantoms, num_patients=4, images_per_patient=2, size=48)
    images = sorted(root.rglob("*.png"))
    for number, image in enumerate(images[:5]):
        keep(studies, f"case{number}.png", image, image)
    keep(studies, "picture.png", images[5])
    values = np.asarray(Image.open(images[6]).convert("L"), dtype=np.float32)[:44].T
    nib.save(nib.Nifti1Image(values, np.diag([-0.5, 0.5, 1.0, 1.0])), studies / "slice.nii.gz")
    nib.save(nib.Nifti1Image(np.stack([values] * 3, -1), np.diag([-0.5, 0.5, 2.0, 1.0])), studies / "case9.nii.gz")


def write_cines(studies: Path, phantoms: Path) -> None:
    root = write_acdc_phantom(phantoms, num_patients=4, num_frames=6, shape=(32, 32, 4), spacing=(3.0, 3.0, 12.0))
    for number, folder in enumerate(sorted((root / "training").glob("patient*"))):
        first = sorted(folder.glob("*_frame*.nii.gz"))[0]
        label = first.with_name(first.name.replace(".nii.gz", "_gt.nii.gz"))
        keep(studies, f"cine{number}.nii.gz", next(folder.glob("*_4d.nii.gz")), label)
        if number < 2:
            keep(studies, f"volume{number}.nii.gz", first)


def write_pairs(studies: Path, phantoms: Path) -> None:
    root = write_synthrad_phantom(phantoms, num_patients=6, regions="brain", shape=(32, 30, 3))
    for number, folder in enumerate(sorted((root / "Task1" / "brain").glob("1B*"))):
        keep(studies, f"ct{number}.nii.gz", folder / "ct.nii.gz", folder / "mr.nii.gz" if number < 4 else None)


def variants(volume: str) -> list[Request]:
    """Requests of the generators of single slices."""
    return [
        Request("slice.nii.gz", {"strength": 1.0, "seed": 0}),
        Request("slice.nii.gz", {"strength": 0.3, "seed": 7}),
        Request("slice.nii.gz", {"strength": 0.3, "seed": 7}, upload=True, same=True),
        Request("picture.png", {"strength": 0.5}),
        Request(volume, {}),
        Request(volume, {"strength": 0.5, "slice": 0, "seed": 3, "num_inference_steps": 10}),
        Request(volume, {"strength": 0.5, "slice": 0, "result_extension": ".nrrd"}),
        Request(volume, {"slice": 99}, refused=True),
        Request(volume, {"strength": 1.5}, refused=True),
    ]


CASES = {
    case.bundle: case
    for case in (
        Case("acdc_slices_vm_ddpm_synthesis", VM_DDPM, write_acdc, variants("case0.nii.gz")),
        Case("brats2018_slices_vm_ddpm_synthesis", VM_DDPM, write_brats, variants("case0.nii.gz")),
        Case("chestxray14_vm_ddpm_synthesis", VM_DDPM, write_chest, variants("case9.nii.gz"), batch_count=3),
        Case(
            "acdc_cine_mstg_synthesis",
            MSTG,
            write_cines,
            [
                Request("cine0.nii.gz", {}),
                Request("cine0.nii.gz", {"frame": 1}),
                Request("volume0.nii.gz", {"frame": 2}),
                Request("volume0.nii.gz", {"frame": 2, "seed": 5}),
                Request("volume0.nii.gz", {"frame": 2, "seed": 5}, upload=True, same=True),
                Request("volume0.nii.gz", {"frame": 99}, refused=True),
            ],
        ),
        Case(
            "synthrad2023_ct2mr_diffma_synthesis",
            DIFFMA,
            write_pairs,
            [
                Request("ct0.nii.gz", {}),
                Request("ct0.nii.gz", {"seed": 4}),
                Request("ct0.nii.gz", {"seed": 4, "num_averages": 2}),
                Request("ct0.nii.gz", {"seed": 4}, upload=True, same=True),
                Request("ct0.nii.gz", {"num_averages": 0}, refused=True),
            ],
        ),
    )
}
