"""Phantom brains with a tumour in BraTS's layouts, so that one reader serves phantoms and patients."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from monai_mamba_gen.utils.seeding import derive_seed

from .brats import BRATS_MODALITIES
from .phantom_folder import write_phantom_folder
from .phantom_head import draw_brain, posed
from .phantom_tissue import Grid, ellipsoid, make_grid, wave_field

__all__ = ["brats_phantom", "phantom_brats_dir", "write_brats_phantom"]

_VERSION = 1
_LAYOUTS = ("2018", "2021")
_FIELD_OF_VIEW = (200.0, 200.0, 155.0)  # mm; BraTS has 240 x 240 x 155, of which the rim is empty
_CENTRE = (0.0, 0.0, -4.0)  # of the field of view in the grid of the head, mm
_TISSUES = {  # relative signal in the order of BRATS_MODALITIES, and how much it varies within the tissue
    "brainstem": (0.66, 0.68, 0.46, 0.52, 0.02),
    "deep grey matter": (0.54, 0.57, 0.52, 0.58, 0.02),
    "enhancing rim": (0.46, 1.15, 0.7, 0.8, 0.06),
    "falx": (0.3, 0.6, 0.25, 0.3, 0.02),
    "fluid": (0.14, 0.14, 0.98, 0.12, 0.01),
    "grey matter": (0.47, 0.5, 0.62, 0.62, 0.03),
    "necrosis": (0.22, 0.22, 0.95, 0.45, 0.04),
    "oedema": (0.42, 0.42, 0.9, 1.0, 0.05),
    "solid tumour": (0.36, 0.38, 0.82, 0.88, 0.05),
    "white matter": (0.74, 0.76, 0.42, 0.46, 0.02),
}
_SEGMENTED = {"necrosis": 1, "solid tumour": 1, "oedema": 2, "enhancing rim": 4}
_CONTRAST = 0.04  # relative standard deviation of a tissue's signal between patients


class _BrainCanvas:
    """Four modalities and the segmentation, painted tissue over tissue as on a `TissueCanvas`."""

    def __init__(self, rng: np.random.Generator, grid: Grid, softness: float) -> None:
        self.grid = grid
        self.pictures = np.zeros((len(BRATS_MODALITIES), *grid.left.shape), dtype=np.float32)
        self.segmentation = np.zeros(grid.left.shape, dtype=np.uint8)
        self._softness = np.float32(softness)
        self._shift = {
            name: 1 + _CONTRAST * np.clip(rng.standard_normal(len(BRATS_MODALITIES)), -2, 2)
            for name in sorted(_TISSUES)
        }
        self._texture = wave_field(rng, grid, 14)

    def paint(self, distance: np.ndarray, tissue: str, strength: float = 1.0) -> None:
        """Cover everything nearer than 0 (mm, negative inside) with a tissue."""
        *signals, texture = _TISSUES[tissue]
        weight = np.clip(0.5 - distance / (2 * self._softness), 0, 1).astype(np.float32) * np.float32(strength)
        for picture, signal, shift in zip(self.pictures, signals, self._shift[tissue], strict=True):
            picture += weight * (np.float32(signal * shift) + np.float32(texture) * self._texture - picture)
        self.segmentation[weight > 0.5] = _SEGMENTED.get(tissue, 0)


def brats_phantom(seed: int, shape: Sequence[int] = (48, 48, 32), group: str = "HGG") -> dict[str, np.ndarray]:
    """
    Draw one brain with a tumour as four modalities and a segmentation, without skull, as BraTS has them.

    The volume covers 200 x 200 x 155 mm whatever its number of voxels, the brain about 140 mm of its height. The first
    axis runs to the patient's left, the second to the back, the third up. A tumour of group HGG has a rim that is
    bright in t1ce round a dead core; one of group LGG is solid and dark in t1ce. Both swell the tissue around them,
    which is bright in t2 and flair.

    Args:
        seed: the same arguments give the same arrays, bit for bit on one machine.
        shape: (X, Y, Z) voxels, at least (16, 16, 1).
        group: "HGG" or "LGG", high-grade or low-grade glioma.

    Returns:
        ``t1``, ``t1ce``, ``t2`` and ``flair`` (X, Y, Z) int16, 0 outside the brain; ``seg`` (X, Y, Z) uint8: 1 core
        that takes up no contrast agent, 2 oedema, 4 rim that does, 0 elsewhere.

    Raises:
        ValueError: when an argument is outside what is allowed.

    Example:
        >>> case = brats_phantom(seed=0, shape=(24, 24, 16))
        >>> sorted(case), int(case["seg"].max()), case["t1ce"].dtype
        (['flair', 'seg', 't1', 't1ce', 't2'], 4, dtype('int16'))
    """
    if len(shape) != 3 or min(shape[:2]) < 16 or shape[2] < 1:
        raise ValueError(f"shape must be (X, Y, Z) of at least (16, 16, 1), got {tuple(shape)}")
    if group not in ("HGG", "LGG"):
        raise ValueError(f"group must be 'HGG' or 'LGG', got {group!r}")
    rng = np.random.default_rng(derive_seed(seed, "brats_phantom"))
    spacing = _spacing(shape)
    grid = make_grid(shape, spacing)
    grid = posed(rng, Grid(*(axis + np.float32(at) for axis, at in zip(grid, _CENTRE, strict=True))))
    canvas = _BrainCanvas(rng, grid, max(0.8, 0.5 * max(spacing[:2])))
    cavity = _cavity(rng, grid)
    draw_brain(rng, canvas, cavity, lesions=False)
    _paint_tumour(rng, canvas, cavity, group)
    inside = _brain_mask(rng, grid, cavity)
    seg = np.where(inside, canvas.segmentation, 0).astype(np.uint8)
    scanned = (_scan(rng, picture, grid, inside) for picture in canvas.pictures)
    return {**dict(zip(BRATS_MODALITIES, scanned, strict=True)), "seg": seg}


def _spacing(shape: Sequence[int]) -> tuple[float, ...]:
    return tuple(mm / int(size) for mm, size in zip(_FIELD_OF_VIEW, shape, strict=True))


def _cavity(rng: np.random.Generator, grid: Grid) -> np.ndarray:
    radii = (rng.uniform(66, 73), rng.uniform(84, 92), np.where(grid.up > -10, rng.uniform(72, 80), 74.0))
    return ellipsoid(grid, (0.0, 0.0, -10.0), radii) + 1.2 * wave_field(rng, grid, 60)


def _brain_mask(rng: np.random.Generator, grid: Grid, cavity: np.ndarray) -> np.ndarray:
    """Return where a brain without its skull is: hemispheres, cerebellum and brainstem."""
    temporal = [ellipsoid(grid, (side * 40, -8, -28), (27, 42, 26)) for side in (-1, 1)]
    frontal = -(grid.up + 28 - 0.1 * np.maximum(grid.back, 0))
    below = [ellipsoid(grid, (0, 50, -48), (56, 42, 25)), ellipsoid(grid, (0, 13, -46), (15, 14, 28))]
    hull = np.minimum.reduce([frontal, *temporal, *below])
    return np.maximum(cavity + 1.5, hull + 0.8 * wave_field(rng, grid, 30)) < 0


def _paint_tumour(rng: np.random.Generator, canvas: _BrainCanvas, cavity: np.ndarray, group: str) -> None:
    """Paint one tumour with swelling around it, mostly within the white matter of one side."""
    grid, side = canvas.grid, rng.choice((-1, 1))
    centre = (side * rng.uniform(26, 38), rng.uniform(-42, 42), rng.uniform(0, 28))
    radii = rng.uniform(0.85, 1.15, 3) * rng.uniform(17, 24)
    lumps = 2.0 * wave_field(rng, grid, 28)
    tumour = np.maximum(ellipsoid(grid, centre, radii) + lumps, cavity + 5)
    swelling = np.maximum(tumour - rng.uniform(8, 16) + 2.5 * wave_field(rng, grid, 34), cavity + 4)
    swelling = np.maximum(swelling, 3 - side * grid.left)
    canvas.paint(swelling, "oedema", 0.95)
    if group == "LGG":
        canvas.paint(tumour, "solid tumour")
        return
    canvas.paint(tumour, "enhancing rim")
    canvas.paint(tumour + rng.uniform(6.0, 8.0) + 0.4 * lumps, "necrosis")


def _scan(rng: np.random.Generator, picture: np.ndarray, grid: Grid, inside: np.ndarray) -> np.ndarray:
    """Apply the coil's uneven sensitivity, Rician noise and the scanner's scale; nothing is left outside the brain."""
    bias = np.exp(np.float32(rng.uniform(0.03, 0.07)) * wave_field(rng, grid, 350))
    noise = rng.standard_normal((2, *picture.shape), dtype=np.float32) * np.float32(rng.uniform(0.01, 0.02))
    scanned = np.hypot(np.maximum(picture, 0) * bias + noise[0], noise[1]) * np.float32(rng.uniform(400, 1500))
    return np.where(inside, np.maximum(np.rint(scanned), 1), 0).astype(np.int16)


def write_brats_phantom(
    root: str | os.PathLike[str],
    num_patients: int = 4,
    shape: Sequence[int] = (48, 48, 32),
    layout: str = "2018",
    seed: int = 0,
) -> Path:
    """
    Write phantom cases as ``{HGG,LGG}/<case>/<case>_{t1,t1ce,t2,flair,seg}.nii.gz``, or without the two groups.

    Of the cases, every fourth is an LGG, and the last one too, where there are several. Affine and origin are those of
    BraTS: the axes run to the patient's left, back and head. Files appear all at once; where the same phantom is there
    already, nothing is written.

    Args:
        root: folder to make; it may exist when it is empty or holds the same phantom.
        num_patients: at least 1.
        shape: (X, Y, Z) voxels, at least (16, 16, 1); they cover 200 x 200 x 155 mm.
        layout: "2018" with the two groups, or "2021" without.
        seed: the same arguments give the same files.

    Returns:
        ``root``, for `brats_datalist`.

    Raises:
        DataError: when ``root`` holds something else.
        ValueError: when an argument is outside what is allowed.

    Example:
        >>> import tempfile
        >>> root = write_brats_phantom(tempfile.mkdtemp(), num_patients=1, shape=(16, 16, 4), layout="2021")
        >>> sorted(path.name for path in root.iterdir())
        ['BraTS2021_00001', 'phantom.json']
    """
    if isinstance(num_patients, bool) or not isinstance(num_patients, int) or num_patients < 1:
        raise ValueError(f"num_patients must be an integer above 0, got {num_patients!r}")
    if layout not in _LAYOUTS:
        raise ValueError(f"layout must be one of {_LAYOUTS}, got {layout!r}")
    parameters = {
        "kind": "brats",
        "version": _VERSION,
        "num_patients": num_patients,
        "seed": int(seed),
        "layout": layout,
        "shape": [int(size) for size in shape],
    }

    def write(folder: Path) -> None:
        for number in range(1, num_patients + 1):
            last = number == num_patients > 1
            group = "LGG" if number % 4 == 0 or last else "HGG"
            if layout == "2018":
                case = folder / group / f"Brats18_PHANTOM_{number}_1"
            else:
                case = folder / f"BraTS2021_{number:05d}"
            _write_case(case, brats_phantom(derive_seed(int(seed), "brats_phantom", number), shape, group))

    return write_phantom_folder(root, parameters, write)


def phantom_brats_dir(dataset_dir: str | os.PathLike[str], **kwargs: Any) -> str:
    """
    Return ``dataset_dir`` after making sure that the phantom data set is in it; for bundle configs.

    Args:
        dataset_dir: folder of the phantom.
        kwargs: arguments of `write_brats_phantom`.

    Raises:
        DataError: when the folder holds something else.
    """
    return str(write_brats_phantom(dataset_dir, **kwargs))


def _write_case(folder: Path, case: dict[str, np.ndarray]) -> None:
    folder.mkdir(parents=True)
    for name, array in case.items():
        spacing = _spacing(array.shape)
        affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
        affine[1, 3] = (array.shape[1] - 1) * spacing[1]  # BraTS has 239 here, and 0 for the other two
        image = nib.Nifti1Image(array, affine)
        image.header.set_xyzt_units("mm")
        image.header["descrip"] = b"synthetic phantom"
        nib.save(image, folder / f"{folder.name}_{name}.nii.gz")
