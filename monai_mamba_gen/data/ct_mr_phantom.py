"""CT and MR of one random head or pelvis: pairs for demonstrations and tests without patient data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from monai_mamba_gen.utils.seeding import derive_seed

from .phantom_head import draw_head
from .phantom_pelvis import draw_pelvis
from .phantom_tissue import Grid, make_grid, wave_field

__all__ = ["PHANTOM_REGIONS", "ct_mr_phantom", "phantom_spacing"]


class _Region(NamedTuple):
    draw: object
    field_of_view: tuple[float, float, float]  # mm
    margin: float  # mm of air within the mask


_REGIONS = {
    "brain": _Region(draw_head, (240.0, 240.0, 138.0), 8.0),
    "pelvis": _Region(draw_pelvis, (408.0, 408.0, 150.0), 10.0),
}
PHANTOM_REGIONS = tuple(_REGIONS)
"""SynthRAD2023's two regions."""


def phantom_spacing(region: str, shape: Sequence[int]) -> tuple[float, float, float]:
    """Return the mm per voxel at which the region fills a volume of ``shape`` voxels."""
    return tuple(float(mm) / int(size) for mm, size in zip(_region(region).field_of_view, shape, strict=True))


def ct_mr_phantom(
    seed: int,
    region: str = "brain",
    shape: Sequence[int] = (64, 64, 24),
    spacing: Sequence[float] | None = None,
) -> dict[str, np.ndarray]:
    """
    Draw CT, MR and mask of one head or pelvis.

    The first axis runs to the patient's left, the second to the back, the third up. The two pictures show the same
    tissues, but neither is a function of the other's grey values: air and dense bone are both dark in MR, white and
    grey matter, or muscle, urine and vessels, are all but equal in CT. Lesions are plain in MR and faint in CT. The CT
    has noise; the MR (T1-weighted in the head, T2-weighted in the pelvis) has an uneven coil, Rician noise, a scale of
    its own for each patient and slightly different contrasts.

    Args:
        seed: the same arguments give the same arrays, bit for bit on one machine.
        region: "brain" or "pelvis".
        shape: (X, Y, Z) voxels, at least (16, 16, 1).
        spacing: mm per voxel; default: so that the region fills the volume, see `phantom_spacing`.

    Returns:
        ``ct`` (X, Y, Z) int16 in HU from -1024 to 3071, ``mr`` (X, Y, Z) float32 >= 0 in arbitrary units, ``mask``
        (X, Y, Z) uint8, 1 in the body and some mm around it.

    Raises:
        ValueError: when an argument is outside what is allowed.

    Example:
        >>> pair = ct_mr_phantom(seed=0, region="pelvis", shape=(32, 32, 4))
        >>> pair["ct"].dtype, pair["mr"].shape, sorted(pair)
        (dtype('int16'), (32, 32, 4), ['ct', 'mask', 'mr'])
    """
    described = _region(region)
    if len(shape) != 3 or min(shape[:2]) < 16 or shape[2] < 1:
        raise ValueError(f"shape must be (X, Y, Z) of at least (16, 16, 1), got {tuple(shape)}")
    spacing = phantom_spacing(region, shape) if spacing is None else tuple(float(size) for size in spacing)
    if len(spacing) != 3 or min(spacing) <= 0:
        raise ValueError(f"spacing must be three lengths above 0 mm, got {spacing}")
    rng = np.random.default_rng(derive_seed(seed, "ct_mr_phantom", region))
    grid = make_grid(shape, spacing)
    canvas, skin = described.draw(rng, grid, max(0.8, 0.5 * max(spacing[:2])))
    mask = (skin < described.margin).astype(np.uint8)
    return {"ct": _scan_ct(rng, canvas.ct), "mr": _scan_mr(rng, canvas.mr, grid), "mask": mask}


def _region(region: str) -> _Region:
    if region not in _REGIONS:
        raise ValueError(f"region must be one of {PHANTOM_REGIONS}, got {region!r}")
    return _REGIONS[region]


def _scan_ct(rng: np.random.Generator, ct: np.ndarray) -> np.ndarray:
    noise = rng.standard_normal(ct.shape, dtype=np.float32) * np.float32(rng.uniform(6, 12))
    return np.rint(np.clip(ct + noise, -1024, 3071)).astype(np.int16)


def _scan_mr(rng: np.random.Generator, mr: np.ndarray, grid: Grid) -> np.ndarray:
    """Apply the coil's uneven sensitivity, Rician noise and the scanner's scale."""
    bias = np.exp(np.float32(rng.uniform(0.04, 0.1)) * wave_field(rng, grid, 350))
    sigma = np.float32(rng.uniform(0.01, 0.022))
    noise = rng.standard_normal((2, *mr.shape), dtype=np.float32) * sigma
    return np.hypot(mr * bias + noise[0], noise[1]) * np.float32(rng.uniform(300, 1500))
