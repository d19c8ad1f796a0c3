"""A beating short-axis heart drawn from a seed: images and labels for demonstrations and tests without patient data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from monai_mamba_gen.utils.seeding import derive_seed

from .phantom_background import draw_background, smooth_field

__all__ = ["PHANTOM_GROUPS", "cardiac_phantom"]

PHANTOM_GROUPS = ("NOR", "MINF", "DCM", "HCM", "RV")
"""ACDC's five groups: normal, infarction, dilated and hypertrophic cardiomyopathy, abnormal right ventricle."""


class _Habit(NamedTuple):
    """Ranges of one group, lengths in mm at end diastole in the middle of the ventricle."""

    cavity_radius: tuple[float, float]
    wall: tuple[float, float]
    ejection_fraction: tuple[float, float]
    right_ventricle: tuple[float, float]


_HABITS = {
    "NOR": _Habit((21.0, 26.0), (7.0, 9.5), (0.55, 0.68), (0.85, 1.0)),
    "MINF": _Habit((25.0, 30.0), (7.0, 9.5), (0.25, 0.40), (0.8, 0.95)),
    "DCM": _Habit((29.0, 34.0), (6.0, 8.0), (0.20, 0.33), (0.8, 0.95)),
    "HCM": _Habit((19.0, 23.0), (12.0, 16.0), (0.58, 0.70), (0.8, 0.95)),
    "RV": _Habit((20.0, 25.0), (7.0, 9.0), (0.48, 0.62), (1.1, 1.3)),
}


class _Heart(NamedTuple):
    """One patient's anatomy; arrays broadcast to (T, X, Y, Z)."""

    across: np.ndarray  # mm from the LV axis, along the first image axis
    down: np.ndarray  # mm from the LV axis, along the second image axis
    radius: np.ndarray  # distance from the LV axis in mm, with the LV's out-of-roundness taken out
    angle: np.ndarray  # 0 points from the LV away from the RV
    inner: np.ndarray  # endocardial radius in mm
    outer: np.ndarray  # epicardial radius in mm
    level: np.ndarray  # 0 base .. 1 apex
    contraction: np.ndarray  # 0 end diastole .. 1 end systole
    rv_angle: float
    rv_size: float


def cardiac_phantom(
    seed: int,
    num_frames: int = 8,
    shape: Sequence[int] = (96, 96, 8),
    spacing: Sequence[float] = (1.5, 1.5, 10.0),
    group: str | None = None,
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """
    Draw one patient's heart over one cardiac cycle.

    Slices run from base to apex. The first frame is end diastole; the left ventricle is smallest at end systole.

    Args:
        seed: the same seed and sizes give the same arrays, bit for bit on one machine.
        num_frames: T, frames in the cycle, at least 2.
        shape: (X, Y, Z) voxels, at least (16, 16, 1).
        spacing: mm per voxel along (X, Y, Z), above 0.
        group: one of `PHANTOM_GROUPS`; default: drawn from the seed.

    Returns:
        images (T, X, Y, Z) float32, >= 0 and mostly below 1; labels (T, X, Y, Z) uint8 (0 background, 1 right
        ventricle, 2 myocardium, 3 left ventricular cavity, papillary muscles included as in ACDC); a dict with
        ``ED`` and ``ES`` (1-based frames), ``Group``, ``Height`` (cm), ``Weight`` (kg), ``NbFrame``,
        ``ejection_fraction`` (of the labels), ``seconds_per_frame``.

    Raises:
        ValueError: when an argument is outside what is allowed.

    Example:
        >>> images, labels, info = cardiac_phantom(seed=0, num_frames=4, shape=(48, 48, 4), spacing=(3, 3, 20))
        >>> images.shape, int(labels.max()), info["ED"]
        ((4, 48, 48, 4), 3, 1)
    """
    _check_arguments(num_frames, shape, spacing, group)
    shape, spacing = tuple(int(size) for size in shape), tuple(float(size) for size in spacing)
    rng = np.random.default_rng(derive_seed(seed, "cardiac_phantom"))
    drawn = PHANTOM_GROUPS[int(rng.integers(len(PHANTOM_GROUPS)))]
    group = group or drawn
    heart, centre = _draw_anatomy(rng, _HABITS[group], group, num_frames, shape, spacing)
    images = np.broadcast_to(draw_background(rng, shape, spacing, centre), (num_frames, *shape)).astype(np.float32)
    labels = np.zeros((num_frames, *shape), dtype=np.uint8)
    _paint_right_ventricle(rng, heart, images, labels)
    _paint_left_ventricle(rng, heart, images, labels)
    images = _scan(rng, images)
    volumes = (labels == 3).sum(axis=(1, 2, 3))
    end_systole = int(volumes.argmin())
    info = {
        "ED": 1,
        "ES": end_systole + 1,
        "Group": group,
        "Height": round(float(rng.uniform(150, 192)), 1),
        "NbFrame": num_frames,
        "Weight": round(float(rng.uniform(50, 105)), 1),
        "ejection_fraction": float(1 - volumes[end_systole] / max(1, volumes[0])),
        "seconds_per_frame": round(float(rng.uniform(0.75, 1.05)) / num_frames, 4),
    }
    return images, labels, info


def _check_arguments(num_frames: int, shape: Sequence[int], spacing: Sequence[float], group: str | None) -> None:
    if num_frames < 2:
        raise ValueError(f"num_frames must be at least 2, got {num_frames}")
    if len(shape) != 3 or min(shape[:2]) < 16 or shape[2] < 1:
        raise ValueError(f"shape must be (X, Y, Z) of at least (16, 16, 1), got {tuple(shape)}")
    if len(spacing) != 3 or min(spacing) <= 0:
        raise ValueError(f"spacing must be three lengths above 0 mm, got {tuple(spacing)}")
    if group is not None and group not in PHANTOM_GROUPS:
        raise ValueError(f"group must be one of {PHANTOM_GROUPS}, got {group!r}")


def _contraction(rng: np.random.Generator, num_frames: int) -> np.ndarray:
    """Return (T,): 0 at the first frame, 1 at end systole, smooth and periodic, quick early filling."""
    systole = int(np.clip(round(rng.uniform(0.33, 0.42) * num_frames), 1, num_frames - 1)) / num_frames
    phase = np.arange(num_frames) / num_frames
    filling = np.clip((phase - systole) / (1 - systole), 0, 1) ** 0.8
    falling = 0.5 * (1 - np.cos(np.pi * np.minimum(phase / systole, 1)))
    return np.where(phase <= systole, falling, 0.5 * (1 + np.cos(np.pi * filling)))


def _draw_anatomy(
    rng: np.random.Generator,
    habit: _Habit,
    group: str,
    num_frames: int,
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
) -> tuple[_Heart, np.ndarray]:
    """Draw sizes, place and motion; return the heart and the LV centre per slice (2, Z) in mm from the image centre."""
    level = np.linspace(0.03, 0.97, shape[2]) if shape[2] > 1 else np.array([0.4])
    taper = np.sqrt(1 - (rng.uniform(0.84, 0.92) * level) ** 2)
    centre = rng.uniform([[-4.0], [-6.0]], [[8.0], [6.0]]) + rng.uniform(-9, 9, (2, 1)) * (level - 0.5)
    contraction = _contraction(rng, num_frames).reshape(-1, 1, 1, 1)
    u, v = ((np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape[:2], spacing[:2], strict=True))
    across, down = np.broadcast_arrays(u[:, None, None] - centre[0], v[None, :, None] - centre[1])
    rv_angle = np.pi + rng.uniform(-0.45, 0.45)
    angle = np.angle(np.exp(1j * (np.arctan2(down, across) - rv_angle - np.pi)))
    oval, oval_at = rng.uniform(0.0, 0.06), rng.uniform(0, 2 * np.pi)
    lumpy, lumpy_at = rng.uniform(0.0, 0.025), rng.uniform(0, 2 * np.pi)
    roundness = 1 + oval * np.cos(2 * angle + oval_at) + lumpy * np.cos(3 * angle + lumpy_at + 2 * level)
    radius = np.hypot(across, down) / roundness

    wall_angle = np.pi if group == "HCM" else rng.uniform(-np.pi, np.pi)
    bump = np.exp((np.cos(angle - wall_angle) - 1) / 0.35)
    circle = np.exp((np.cos(np.linspace(0, 2 * np.pi, 256, endpoint=False)) - 1) / 0.35)
    infarct = rng.uniform(0.6, 0.95) if group == "MINF" else 0.0
    thickening = {"MINF": -0.45, "HCM": 0.45}.get(group, rng.uniform(-0.1, 0.1))

    cavity = rng.uniform(*habit.cavity_radius) * taper
    wall = rng.uniform(*habit.wall) * (0.55 + 0.45 * taper) * (1 + thickening * bump)
    shortening = _shortening(rng.uniform(*habit.ejection_fraction), 1 - infarct * circle)
    inner = cavity * (1 - shortening * (1 - infarct * bump) * contraction)
    # The wall's cross-section stays what it was at end diastole, so it thickens as the cavity shrinks.
    outer = np.sqrt(inner**2 + (cavity + wall) ** 2 - cavity**2)
    arrays = (across, down, radius, angle, inner, outer, level, contraction)
    rv_size = rng.uniform(*habit.right_ventricle)
    heart = _Heart(*(array.astype(np.float32) for array in arrays), rv_angle=float(rv_angle), rv_size=float(rv_size))
    return heart, centre


def _shortening(ejection_fraction: float, motion: np.ndarray) -> float:
    """Return the radial shortening that ejects the given fraction where sectors move by ``motion`` (0 .. 1) of it."""
    mean, square = motion.mean(), (motion**2).mean()
    return float((mean - np.sqrt(max(0.0, mean**2 - square * ejection_fraction))) / square)


def _cover(images: np.ndarray, distance: np.ndarray, value: np.ndarray | float, softness: float = 1.2) -> None:
    """Paint ``value`` where distance (mm, negative inside) says so; the edge is ``softness`` mm wide to either side."""
    weight = np.clip(0.5 - distance / (2 * softness), 0, 1)
    images += weight * (value - images)


def _paint_right_ventricle(rng: np.random.Generator, heart: _Heart, images: np.ndarray, labels: np.ndarray) -> None:
    """Paint epicardial fat, the RV's thin free wall and its cavity; the LV goes on top and makes it a crescent."""
    end_diastole = heart.outer[0].mean(axis=(0, 1))
    apex_fade = np.clip(1.25 - heart.level**2 * rng.uniform(0.95, 1.3), 0.05, 1)
    offset = end_diastole * (0.62 + 0.18 * heart.rv_size) * (0.75 + 0.25 * apex_fade)
    direction = np.array([np.cos(heart.rv_angle), np.sin(heart.rv_angle)], dtype=np.float32)
    squeeze = 1 - rng.uniform(0.15, 0.28) * heart.contraction
    along = heart.across * direction[0] + heart.down * direction[1] - offset * (0.6 + 0.4 * squeeze)
    beside = heart.down * direction[0] - heart.across * direction[1]
    beside = beside - rng.uniform(-5, 5) * (1 - heart.level)
    depth = end_diastole * 0.72 * heart.rv_size * apex_fade * squeeze
    width = end_diastole * 1.02 * heart.rv_size**0.5 * apex_fade * (0.55 + 0.45 * squeeze)
    lumps = smooth_field(rng, images.shape[1:], 7)
    distance = (np.sqrt((along / depth) ** 2 + (beside / width) ** 2) - 1) * np.minimum(depth, width) + 1.3 * lumps
    fat = (
        rng.uniform(-1.0, 2.5)
        + 2.5 * np.cos(heart.angle - rng.uniform(1, 5))
        + 3 * smooth_field(rng, images.shape[1:], 8)
    )
    outline = np.minimum(distance - rng.uniform(1.5, 3), heart.radius - heart.outer)
    _cover(images, outline - fat, rng.uniform(0.5, 0.85))
    _cover(images, outline, rng.uniform(0.2, 0.3))
    blood = rng.uniform(0.62, 0.82) * (1 + 0.25 * smooth_field(rng, images.shape[1:], 11))
    _cover(images, distance, blood)
    labels[(distance < 0) & (heart.radius >= heart.outer)] = 1


def _paint_left_ventricle(rng: np.random.Generator, heart: _Heart, images: np.ndarray, labels: np.ndarray) -> None:
    """Paint the myocardium, the bright cavity, its rough edge and two papillary muscles."""
    muscle = rng.uniform(0.2, 0.3)
    _cover(images, heart.radius - heart.outer, muscle * (1 + 0.25 * smooth_field(rng, images.shape[1:], 8)))
    within = heart.radius / heart.inner
    count = rng.integers(7, 12)
    ridges = np.cos(count * heart.angle + 5 * heart.level + rng.uniform(0, 6)) * np.cos(
        (count // 2) * heart.angle - 7 * heart.level
    )
    rough = rng.uniform(0.06, 0.16) * np.clip(ridges, 0, 1)
    lumps = smooth_field(rng, images.shape[1:], 12)
    blood = rng.uniform(0.8, 0.98) * (1 + 0.12 * smooth_field(rng, images.shape[1:], 5))
    _cover(images, (within - 1 + rough) * heart.inner, blood)
    present = np.clip(4 * np.minimum(heart.level - 0.12, 0.93 - heart.level), 0, 1)
    for side in (-1, 1):
        at = heart.rv_angle + np.pi + side * rng.uniform(0.7, 1.4) + rng.uniform(-0.3, 0.3) * heart.level
        far = rng.uniform(0.62, 0.86) * heart.inner
        size = rng.uniform(2.8, 5.2) * present * (1 + 0.15 * heart.contraction)
        outward = heart.across * np.cos(at) + heart.down * np.sin(at) - far
        sideways = heart.down * np.cos(at) - heart.across * np.sin(at)
        gap = np.hypot(outward / rng.uniform(0.9, 1.7), sideways) - size + 0.8 * lumps
        _cover(images, np.where(size > 0.5, gap, 9.0), muscle * rng.uniform(1.0, 1.6))
    labels[heart.radius < heart.outer] = 2
    labels[heart.radius < heart.inner] = 3


def _scan(rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
    """Apply the coil's uneven sensitivity and Rician noise; images (T, X, Y, Z)."""
    shape = images.shape[1:]
    towards_coil = np.linspace(1, -1, shape[0])[:, None, None] * 0.7 + np.linspace(1, -1, shape[1])[:, None] * 0.5
    bias = np.exp(rng.uniform(0.1, 0.4) * towards_coil + 0.18 * smooth_field(rng, shape, 3))
    clean = images * bias.astype(np.float32)
    sigma = np.float32(rng.uniform(0.012, 0.035))
    noise = rng.standard_normal((2, *images.shape), dtype=np.float32) * sigma
    return np.hypot(clean + noise[0], noise[1])
