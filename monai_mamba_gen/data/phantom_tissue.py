"""Tissues as CT and MR show them, and a canvas that draws both at once from signed distances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["Grid", "Tissue", "TissueCanvas", "capsule", "ellipsoid", "make_grid", "wave_field"]


class Tissue(NamedTuple):
    """What a tissue looks like: CT in HU, MR from 0 (no signal) to about 1, and how much either varies within it."""

    hu: float
    mr: float
    hu_texture: float = 4.0
    mr_texture: float = 0.03


class Grid(NamedTuple):
    """Positions of all voxels in mm from the middle of the volume, each (X, Y, Z) float32."""

    left: np.ndarray
    back: np.ndarray
    up: np.ndarray


def make_grid(shape: Sequence[int], spacing: Sequence[float]) -> Grid:
    """Return the voxels' positions: the first axis runs to the patient's left, the second to the back, the third up."""
    axes = (((np.arange(n) - (n - 1) / 2) * mm).astype(np.float32) for n, mm in zip(shape, spacing, strict=True))
    return Grid(*np.meshgrid(*axes, indexing="ij"))


def ellipsoid(grid: Grid, centre: Sequence[float | np.ndarray], radii: Sequence[float | np.ndarray]) -> np.ndarray:
    """Return about the distance in mm to an ellipsoid's surface, negative inside; infinite radii give cylinders."""
    parts = [(axis - at) / size for axis, at, size in zip(grid, centre, radii, strict=True)]
    inside = np.sqrt(sum(part**2 for part in parts))
    slope = np.sqrt(sum((part / size) ** 2 for part, size in zip(parts, radii, strict=True)))
    return inside * (inside - 1) / np.maximum(slope, 1e-6)


def capsule(grid: Grid, start: Sequence[float], end: Sequence[float], radius: float | np.ndarray) -> np.ndarray:
    """Return the distance in mm to a rod with round ends, negative inside."""
    way = np.subtract(end, start)
    offset = [axis - at for axis, at in zip(grid, start, strict=True)]
    share = np.clip(sum(part * step for part, step in zip(offset, way, strict=True)) / max((way**2).sum(), 1e-6), 0, 1)
    return np.sqrt(sum((part - share * step) ** 2 for part, step in zip(offset, way, strict=True))) - radius


def wave_field(rng: np.random.Generator, grid: Grid, wavelength: float, waves: int = 16) -> np.ndarray:
    """Draw a field of unit variance with hills about ``wavelength`` mm apart, the same at any resolution."""
    direction = rng.standard_normal((waves, 3))
    direction *= 2 * np.pi / wavelength / np.linalg.norm(direction, axis=1, keepdims=True)
    direction *= rng.uniform(0.75, 1.3, (waves, 1))
    phase = rng.uniform(0, 2 * np.pi, waves)
    field = np.zeros_like(grid.left)
    for (a, b, c), shift in zip(direction.astype(np.float32), phase.astype(np.float32), strict=True):
        field += np.cos(a * grid.left + b * grid.back + c * grid.up + shift)
    return field * np.float32(np.sqrt(2 / waves))


class TissueCanvas:
    """
    CT and MR of one anatomy, painted tissue over tissue.

    Every tissue of a patient has a value of its own in either picture, drawn once, so that patients differ in contrast.

    Args:
        rng: where the numbers come from.
        grid: positions of the voxels in mm.
        softness: half the width in mm of the edge between tissues, about half a voxel.
        tissues: name of the tissue -> what it looks like.
        contrast: relative standard deviation of a tissue's MR value between patients.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        grid: Grid,
        softness: float,
        tissues: dict[str, Tissue],
        contrast: float = 0.06,
    ) -> None:
        self.grid = grid
        self.softness = np.float32(softness)
        self.ct = np.full(grid.left.shape, -1000, dtype=np.float32)
        self.mr = np.zeros(grid.left.shape, dtype=np.float32)
        drawn = (
            (name, tissue, np.clip(rng.standard_normal(2), -2, 2))
            for name, tissue in sorted(tissues.items())  # by name, so that a new tissue only shifts those after it
        )
        self._values = {
            name: (tissue.hu + shift[0] * tissue.hu_texture, tissue.mr * (1 + contrast * shift[1]), tissue)
            for name, tissue, shift in drawn
        }
        self._texture = (wave_field(rng, grid, 14), wave_field(rng, grid, 9))

    def paint(self, distance: np.ndarray, tissue: str, strength: float = 1.0) -> None:
        """
        Cover everything nearer than 0 with a tissue.

        Args:
            distance: mm, negative inside; broadcasts to the grid.
            tissue: name of the tissue.
            strength: 1 covers, less lets shine through.
        """
        hu, mr, texture = self._values[tissue]
        weight = np.clip(0.5 - distance / (2 * self.softness), 0, 1).astype(np.float32) * np.float32(strength)
        self.ct += weight * (hu + texture.hu_texture * self._texture[0] - self.ct)
        self.mr += weight * (np.maximum(mr + texture.mr_texture * self._texture[1], 0) - self.mr)

    def shell(self, distance: np.ndarray, thickness: float | np.ndarray, wall: str, content: str) -> None:
        """Paint a closed body whose outermost ``thickness`` mm are of another tissue than its content."""
        self.paint(distance, wall)
        self.paint(distance + thickness, content)
