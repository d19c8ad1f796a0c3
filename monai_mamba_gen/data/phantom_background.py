"""What surrounds the phantom heart: chest wall, lung with vessels, diaphragm and liver, aorta."""

from __future__ import annotations

import numpy as np

__all__ = ["draw_background", "smooth_field"]


def _basis(size: int, cells: int) -> np.ndarray:
    """Return (size, cells) Gaussian bumps that sum to one at every position."""
    position = np.linspace(0, cells - 1, size) if size > 1 else np.array([(cells - 1) / 2])
    bumps = np.exp(-((position[:, None] - np.arange(cells)) ** 2))
    return bumps / bumps.sum(axis=1, keepdims=True)


def smooth_field(rng: np.random.Generator, shape: tuple[int, ...], cells: int) -> np.ndarray:
    """
    Draw a smooth random field of unit order.

    Args:
        rng: where the numbers come from.
        shape: (X, Y, Z).
        cells: hills across X and Y; along Z there are at most three.

    Returns:
        (X, Y, Z) float32, zero mean in expectation.
    """
    grid = rng.standard_normal((cells, cells, 3))
    field = np.einsum(
        "xa,yb,zc,abc->xyz", *(_basis(n, c) for n, c in zip(shape, grid.shape, strict=True)), grid, optimize=True
    )
    return (field / 0.4).astype(np.float32)


def _over(image: np.ndarray, distance: np.ndarray, value: np.ndarray | float, softness: float = 1.2) -> np.ndarray:
    weight = np.clip(0.5 - distance / (2 * softness), 0, 1)
    return image + weight * (value - image)


def draw_background(
    rng: np.random.Generator, shape: tuple[int, ...], spacing: tuple[float, ...], centre: np.ndarray
) -> np.ndarray:
    """
    Draw the thorax around a heart.

    Args:
        rng: where the numbers come from.
        shape: (X, Y, Z).
        spacing: mm per voxel.
        centre: (2, Z), the left ventricle's centre per slice in mm from the image centre.

    Returns:
        (X, Y, Z) float32 between 0 and about 1.
    """
    extent = np.array(shape[:2]) * spacing[:2] / 2
    u, v = ((np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape[:2], spacing[:2], strict=True))
    u, v, centre = u[:, None, None].astype(np.float32), v[None, :, None].astype(np.float32), centre.astype(np.float32)
    level = np.linspace(0, 1, shape[2], dtype=np.float32)
    image = np.full(shape, rng.uniform(0.03, 0.08), dtype=np.float32) * (1 + 0.3 * smooth_field(rng, shape, 9))
    for _ in range(int(rng.integers(25, 60))):
        at, size = rng.uniform(-extent, extent).tolist(), rng.uniform(0.6, 2.4)
        gap = np.hypot(u - at[0] - rng.uniform(-8, 8) * level, v - at[1] - rng.uniform(-8, 8) * level) - size
        image = _over(image, gap, rng.uniform(0.3, 0.7))
    image = _below_diaphragm(rng, image, u, v, centre, level, shape)
    image = _chest_wall(rng, image, u, v, extent, level)
    aorta = np.hypot(u - rng.uniform(34, 48) - centre[0], v - rng.uniform(36, 50) - centre[1]) - rng.uniform(8, 11)
    image = _over(image, aorta - 2, 0.22)
    return np.clip(_over(image, aorta, rng.uniform(0.65, 0.85)), 0.01, None).astype(np.float32)


def _below_diaphragm(
    rng: np.random.Generator,
    image: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    centre: np.ndarray,
    level: np.ndarray,
    shape: tuple[int, ...],
) -> np.ndarray:
    """Paint the fat under the heart, then liver on the left and stomach or spleen on the right."""
    height = centre[1] + rng.uniform(30, 40) - rng.uniform(6, 16) * level + rng.uniform(0.05, 0.35) * u
    height = height + rng.uniform(2, 6) * np.sin(u / rng.uniform(14, 26) + rng.uniform(0, 6) + level)
    image = _over(image, height - v - rng.uniform(1, 8) - 4 * smooth_field(rng, shape, 7), rng.uniform(0.45, 0.8))
    liver = rng.uniform(0.22, 0.42) * (1 + 0.3 * smooth_field(rng, shape, 12))
    image = _over(image, height - v, liver)
    at = (rng.uniform(-25, 55), rng.uniform(46, 68))
    gap = (np.hypot((u - at[0]) / 1.4, v - at[1] - 5 * level) - rng.uniform(12, 20)) * 1.1
    gap = gap + 3 * smooth_field(rng, shape, 8)
    image = _over(image, gap - rng.uniform(0.5, 3), rng.uniform(0.45, 0.85))
    organ = rng.uniform(0.15, 0.5) * (1 + 0.3 * smooth_field(rng, shape, 10))
    return _over(image, gap, organ)


def _chest_wall(
    rng: np.random.Generator, image: np.ndarray, u: np.ndarray, v: np.ndarray, extent: np.ndarray, level: np.ndarray
) -> np.ndarray:
    """Paint muscle and fat of the chest wall towards the left and the top, and air beyond the skin."""
    tilt, large = rng.uniform(-0.35, 0.35), rng.uniform(95, 135)
    along = np.cos(tilt) * u + np.sin(tilt) * v
    beside = np.cos(tilt) * v - np.sin(tilt) * u
    inner_edge = -extent[0] + rng.uniform(10, 20) + 6 * level
    radius = np.hypot(along - inner_edge - large, (beside - rng.uniform(5, 35)) / rng.uniform(0.78, 1.0))
    depth = radius - large + 1.5 * smooth_field(rng, image.shape, 6)
    fat = rng.uniform(3, 18)
    muscle = rng.uniform(3, 8)
    image = _over(image, -depth, rng.uniform(0.2, 0.35))
    stripes = np.sin(beside / rng.uniform(7, 11) + rng.uniform(0, 6))
    image = _over(image, np.maximum(-depth, depth - 2.5) + 1.2 * stripes, rng.uniform(0.4, 0.7))
    image = _over(image, muscle - depth, rng.uniform(0.75, 1.0))
    return _over(image, muscle + fat - depth, 0.015)
