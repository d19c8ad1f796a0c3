"""A chest X-ray drawn from a seed, for demonstrations and tests without patient data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from monai_mamba_gen.utils.seeding import derive_seed

__all__ = ["CHEST_FINDINGS", "chest_phantom"]

CHEST_FINDINGS = ("Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule")
"""Findings that the phantom can show, under the names of ChestX-ray14."""


class _Sheet(NamedTuple):
    """The film: positions from -1 (left, top) to 1, each (rows, columns), and what has been painted on it."""

    right: np.ndarray  # from left to right of the picture, which is from the patient's right to the left
    down: np.ndarray
    density: np.ndarray  # 0 for air, 1 for the thick parts of the trunk
    softness: float

    def inside(self, distance: np.ndarray, softness: float = 0.0) -> np.ndarray:
        """Return 1 where a distance is negative and 0 where it is not, with an edge between them."""
        return np.clip(0.5 - distance / (2 * max(softness, self.softness)), 0, 1)

    def paint(self, distance: np.ndarray, value: float, softness: float = 0.0) -> None:
        """Cover everything inside with a density."""
        self.density[...] += self.inside(distance, softness) * (value - self.density)

    def add(self, distance: np.ndarray, value: float | np.ndarray, softness: float = 0.0) -> None:
        """Add a density to everything inside."""
        self.density[...] += self.inside(distance, softness) * value


class _Chest(NamedTuple):
    """One patient's proportions."""

    wall: float  # half the greatest width of the lungs
    apex: float  # height of the top of the lungs
    domes: tuple[float, float]  # height of the two halves of the diaphragm, left and right in the picture
    heart: float  # relative size
    ribs: float  # distance from rib to rib
    tilt: float  # of the clavicles
    fat: float  # relative thickness of the soft tissue


def chest_phantom(seed: int, size: int = 64, findings: Sequence[str] = (), follow_up: int = 0) -> np.ndarray:
    """
    Draw a chest X-ray from the front, upright, the heart's tip to the right of the picture.

    Lungs are dark, bones and thick tissue bright. Cardiomegaly widens the heart; an effusion fills the base of one
    lung; an infiltration is a faint patch; mass and nodule are round shadows, a mass the larger.

    Args:
        seed: names the patient.
        size: rows and columns, at least 16.
        findings: some of `CHEST_FINDINGS`.
        follow_up: number of the patient's image: position, exposure and noise differ, the anatomy does not.

    Returns:
        (size, size) uint8, rows from top to bottom; the same arguments give the same picture.

    Raises:
        ValueError: when an argument is outside what is allowed.

    Example:
        >>> picture = chest_phantom(seed=0, size=32, findings=("Effusion",))
        >>> picture.shape, picture.dtype
        ((32, 32), dtype('uint8'))
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 16:
        raise ValueError(f"size must be an integer of at least 16, got {size!r}")
    if unknown := [name for name in findings if name not in CHEST_FINDINGS]:
        raise ValueError(f"findings must be some of {CHEST_FINDINGS}, got {unknown[0]!r}")
    patient = np.random.default_rng(derive_seed(seed, "chest_phantom"))
    exposure = np.random.default_rng(derive_seed(seed, "chest_phantom", follow_up))
    chest = _Chest(
        wall=patient.uniform(0.66, 0.76),
        apex=patient.uniform(-0.82, -0.7),
        domes=(patient.uniform(0.42, 0.56), patient.uniform(0.5, 0.64)),
        heart=patient.uniform(0.85, 1.05) * (1.5 if "Cardiomegaly" in findings else 1.0),
        ribs=patient.uniform(0.165, 0.195),
        tilt=patient.uniform(0.1, 0.28),
        fat=patient.uniform(0.8, 1.2),
    )
    sheet = _new_sheet(exposure, size)
    lungs = _trunk(sheet, chest)
    _vessels(patient, sheet, lungs)
    _lesions(patient, sheet, lungs, chest, findings)
    _bones(sheet, chest)
    _middle(sheet, chest)
    return _film(exposure, sheet)


def _new_sheet(rng: np.random.Generator, size: int) -> _Sheet:
    """Return an empty film; the patient stands a little shifted, turned and nearer or farther."""
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    down, right = np.meshgrid(axis, axis, indexing="ij")
    turn, zoom = rng.uniform(-0.05, 0.05), rng.uniform(0.95, 1.08)
    right, down = right - rng.uniform(-0.06, 0.06), down - rng.uniform(-0.05, 0.05)
    right, down = (
        zoom * (np.cos(turn) * right + np.sin(turn) * down),
        zoom * (np.cos(turn) * down - np.sin(turn) * right),
    )
    return _Sheet(right, down, np.zeros((size, size)), 1.4 / size)


def _trunk(sheet: _Sheet, chest: _Chest) -> np.ndarray:
    """Paint soft tissue and lungs; return the distance to the lungs, negative inside."""
    right, down = sheet.right, sheet.down
    shoulder = np.abs(right) - (0.2 + 0.9 / (1 + np.exp(-(down + 0.78 + 0.12 * np.abs(right)) * 14)))
    sheet.paint(shoulder, 0.62 * chest.fat)
    sheet.add(np.abs(right) - 0.42 + 0.25 * down, 0.12, 0.4)
    parts = []
    for side, dome in zip((-1, 1), chest.domes, strict=True):
        across = side * right
        middle = 0.14 + (chest.wall - 0.14) / 2
        half = (chest.wall - 0.14) / 2 * np.sqrt(np.clip((down - chest.apex) / 0.62, 0, 1))
        body = np.abs(across - middle + 0.12 * np.clip(0.1 - down, 0, 1)) - half
        floor = down - dome - 0.9 * (across - 0.36) ** 2 * np.where(across > 0.36, 2.2, 0.5)
        parts.append(np.maximum(body, floor))
    lungs = np.minimum(*parts)
    sheet.paint(lungs, 0.16, 0.03)
    sheet.add(np.maximum(lungs, -0.3 - down), 0.07, 0.4)
    bubble = np.hypot((right - 0.36) / 0.15, (down - chest.domes[1] - 0.17) / 0.07) - 1
    sheet.add(0.1 * bubble, -0.28, 0.02)
    return lungs


def _vessels(rng: np.random.Generator, sheet: _Sheet, lungs: np.ndarray) -> None:
    """Paint the vessels of the lungs, which branch from the two hila and grow thinner."""
    for side in (-1, 1):
        hilum = (side * 0.17, -0.05 + 0.04 * side)
        spot = np.hypot((sheet.right - hilum[0]) / 0.09, (sheet.down - hilum[1]) / 0.15) - 1
        sheet.add(0.1 * spot, 0.16, 0.05)
        for _ in range(9):
            angle, length = rng.uniform(-1.35, 1.35), rng.uniform(0.3, 0.5)
            along = side * (sheet.right - hilum[0]) * np.cos(angle) + (sheet.down - hilum[1]) * np.sin(angle)
            beside = (sheet.down - hilum[1]) * np.cos(angle) - side * (sheet.right - hilum[0]) * np.sin(angle)
            beside = beside + rng.uniform(-0.5, 0.5) * along**2
            share = np.clip(along / length, 0, 1)
            rod = np.hypot(along - share * length, beside) - 0.016 * (1.2 - share)
            sheet.add(np.maximum(rod, lungs), 0.1 * (1.1 - share) * np.clip(along / 0.12, 0, 1))


def _lesions(
    rng: np.random.Generator, sheet: _Sheet, lungs: np.ndarray, chest: _Chest, findings: Sequence[str]
) -> None:
    """Paint what is found in the lungs; the numbers drawn are the same whatever is found."""
    for name in CHEST_FINDINGS:
        side, across, down = rng.choice((-1, 1)), rng.uniform(0.34, 0.5), rng.uniform(-0.35, 0.25)
        size, lumps = rng.uniform(0.85, 1.2), rng.uniform(0, 6)
        if name not in findings:
            continue
        angle = np.arctan2(sheet.down - down, sheet.right - side * across)
        radius = np.hypot(sheet.right - side * across, sheet.down - down)
        if name == "Effusion":
            level = chest.domes[int(side > 0)] - 0.24 * size
            surface = level - 0.9 * np.clip(side * sheet.right - 0.3, 0, 1) ** 2 - sheet.down
            sheet.paint(np.maximum.reduce([surface, lungs - 0.02, 0.05 - side * sheet.right]), 0.7, 0.04)
        elif name == "Infiltration":
            patch = radius - 0.2 * size * (1 + 0.3 * np.cos(3 * angle + lumps))
            sheet.add(np.maximum(patch, lungs), 0.34, 0.12)
        elif name in ("Mass", "Nodule"):
            wanted = 0.15 if name == "Mass" else 0.075
            sheet.add(radius - wanted * size * (1 + 0.06 * np.cos(4 * angle + lumps)), 0.42, 0.025)


def _bones(sheet: _Sheet, chest: _Chest) -> None:
    """Paint ribs, which fall to the sides behind and to the middle in front, and clavicles."""
    right, down = np.abs(sheet.right), sheet.down
    wall = (chest.wall + 0.05) * np.sqrt(np.clip((down - chest.apex + 0.06) / 0.62, 0, 1))
    for number in range(9):
        at = chest.apex + 0.1 + number * chest.ribs
        curve = at - 0.1 * np.cos(2.6 * (right - 0.25)) + 0.42 * right**2.2
        behind = np.abs(down - curve) - 0.021
        sheet.add(np.maximum(behind, right - wall), 0.13)
        sheet.add(np.maximum(np.abs(np.abs(down - curve) - 0.021) - 0.006, right - wall), 0.06)
        front = np.abs(down - (at + 0.34 - 0.45 * (right - 0.3))) - 0.022
        if 1 <= number <= 5:
            sheet.add(np.maximum(np.maximum(front, 0.36 - right), right - wall), 0.07)
    clavicle = np.abs(down - (chest.apex + 0.2 - chest.tilt * (right - 0.1) + 0.05 * np.sin(7 * right))) - 0.032
    sheet.add(np.maximum(np.maximum(clavicle, 0.08 - right), right - 0.74), 0.24)
    humerus = np.hypot((right - 0.98) / 0.14, (down - chest.apex - 0.22) / 0.15) - 1
    sheet.add(0.14 * humerus, 0.1, 0.03)


def _middle(sheet: _Sheet, chest: _Chest) -> None:
    """Paint mediastinum, heart, aortic knob, spine and windpipe."""
    right, down = sheet.right, sheet.down
    band = np.abs(right) - 0.15 - 0.05 * np.clip(-down - 0.5, 0, 1)
    sheet.add(band, 0.2, 0.04)
    sheet.paint(np.maximum(np.hypot((right - 0.12) / 0.1, (down + 0.28) / 0.13) - 1, 0) * 0.1 - 0.001, 0.62, 0.04)
    size = chest.heart
    tip = (0.13 + 0.05 * size, 0.27)
    turn = 0.55
    along = (right - tip[0]) * np.cos(turn) + (down - tip[1]) * np.sin(turn)
    beside = (down - tip[1]) * np.cos(turn) - (right - tip[0]) * np.sin(turn)
    heart = 0.25 * (np.hypot(along / (0.36 * size), beside / 0.27) - 1)
    sheet.paint(np.maximum(heart, down - chest.domes[1] - 0.1), 0.74, 0.035)
    atrium = 0.2 * (np.hypot((right + 0.08 * size) / (0.17 * size), (down - 0.22) / 0.24) - 1)
    sheet.paint(atrium, 0.7, 0.04)
    spine = np.abs(right) - 0.085
    sheet.add(spine, 0.1 + 0.05 * np.cos(2 * np.pi * down / 0.17), 0.02)
    windpipe = np.maximum(np.abs(right) - 0.045, down + 0.22)
    sheet.add(windpipe, -0.24, 0.03)


def _film(rng: np.random.Generator, sheet: _Sheet) -> np.ndarray:
    """Return the developed film: exposure, scatter that greys the picture, noise."""
    density = np.clip(sheet.density, 0, None)
    grey = 1 - np.exp(-rng.uniform(1.5, 2.0) * density)
    low, high = 0.02, np.quantile(grey, 0.98)
    grey = (grey - low) / (high - low) * rng.uniform(0.85, 0.95) + rng.uniform(0.0, 0.05)
    grey = grey + rng.standard_normal(grey.shape) * rng.uniform(0.008, 0.018)
    return np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8)
