"""A male pelvis drawn from a seed, from the thighs to the iliac wings, for pairs of CT and T2-weighted MR."""

from __future__ import annotations

import numpy as np

from .phantom_tissue import Grid, Tissue, TissueCanvas, capsule, ellipsoid, wave_field

__all__ = ["PELVIS_TISSUES", "draw_pelvis"]

PELVIS_TISSUES = {
    "bladder wall": Tissue(38, 0.28),
    "bowel wall": Tissue(40, 0.32, 6.0, 0.04),
    "cartilage": Tissue(85, 0.4),
    "cortical bone": Tissue(1050, 0.04, 80.0, 0.01),
    "fat": Tissue(-102, 0.75, 7.0, 0.04),
    "gas": Tissue(-960, 0.0, 15.0, 0.0),
    "gland": Tissue(40, 0.42, 4.0, 0.06),
    "marrow": Tissue(230, 0.55, 70.0, 0.05),
    "metastasis": Tissue(320, 0.22, 60.0, 0.03),
    "muscle": Tissue(58, 0.2, 7.0, 0.025),
    "node": Tissue(35, 0.4),
    "peripheral zone": Tissue(36, 0.8, 4.0, 0.05),
    "seminal vesicles": Tissue(28, 0.85, 4.0, 0.08),
    "skin": Tissue(5, 0.35),
    "stool": Tissue(20, 0.35, 60.0, 0.1),
    "tumour": Tissue(43, 0.24, 4.0, 0.02),
    "urine": Tissue(6, 1.0, 3.0, 0.02),
    "vessel": Tissue(48, 0.05, 4.0, 0.01),
    "yellow marrow": Tissue(-40, 0.7, 20.0, 0.04),
}
"""HU and relative T2-weighted signal: urine, muscle and vessels are nearly one in CT, bone, gas and vessels in MR."""


def draw_pelvis(rng: np.random.Generator, grid: Grid, softness: float) -> tuple[TissueCanvas, np.ndarray]:
    """
    Draw a pelvis of random size and filling.

    Args:
        rng: where the numbers come from.
        grid: positions in mm; drawn are about 370 mm from side to side and 230 mm from front to back.
        softness: half the width of edges in mm.

    Returns:
        The canvas, and the distance in mm to the skin, negative inside.
    """
    grid = Grid(*(axis - np.float32(rng.uniform(-6, 6)) for axis in grid))
    size = rng.uniform(0.94, 1.06)
    inner = Grid(*(axis / np.float32(size) for axis in grid))
    canvas = TissueCanvas(rng, inner, softness, PELVIS_TISSUES)
    skin = _body(rng, canvas)
    _bowel(rng, canvas)
    _organs(rng, canvas)
    for side in (-1, 1):
        _hip(rng, canvas, side)
        _vessels(rng, canvas, side)
    _sacrum(rng, canvas)
    _metastasis(rng, canvas)
    return canvas, skin * size


def _body(rng: np.random.Generator, canvas: TissueCanvas) -> np.ndarray:
    """Paint skin, fat and the muscles around the pelvic cavity; return the distance to the skin."""
    grid = canvas.grid
    left, back, up = grid
    wide, deep = rng.uniform(172, 188) - 0.0009 * np.maximum(up - 20, 0) ** 2, rng.uniform(106, 120)
    flat = ((np.abs(left) / wide) ** 2.6 + (np.abs(back) / deep) ** 2.3) ** (1 / 2.4)
    skin = (flat - 1) * deep * (0.62 + 0.38 * (np.abs(left) / wide) ** 2) + 2.5 * wave_field(rng, grid, 130)
    cleft = np.abs(left) - 4 + 0.35 * (deep - back) * (up < 15)
    skin = np.where((back > 0.62 * deep) & (up < 15), np.maximum(skin, -cleft), skin)
    canvas.paint(skin, "skin")
    canvas.paint(skin + 3, "fat")
    cover = rng.uniform(15, 24) + 9 * (back / deep) ** 2 + 3 * wave_field(rng, grid, 110)
    muscle = skin + cover
    streaks = np.abs(wave_field(rng, grid, 58)) * 26 - 2.2
    canvas.paint(muscle, "muscle")
    canvas.paint(np.maximum(muscle + 3, streaks), "fat", 0.85)
    high = np.maximum(up, 0)
    cavity = ellipsoid(grid, (0, -4 - 0.1 * high, 15), (84 + 0.25 * high, 68, np.where(up > 15, 95, 78)))
    canvas.paint(cavity, "fat")
    for side in (-1, 1):
        iliopsoas = capsule(grid, (side * 62, -6, 90), (side * 86, -48, -25), rng.uniform(17, 21))
        obturator = capsule(grid, (side * 56, 8, -40), (side * 66, 0, 8), 12)
        piriformis = capsule(grid, (side * 26, 70, 12), (side * 110, 18, -14), 10)
        canvas.paint(np.minimum(np.minimum(iliopsoas, obturator), piriformis), "muscle")
        gluteus = ellipsoid(grid, (side * 84, 62, 0), (58, 26, 85))
        canvas.paint(np.maximum(gluteus, skin + 14), "muscle")
        canvas.paint(np.maximum(np.maximum(gluteus + 4, skin + 16), np.abs(streaks + 1) - 1), "fat", 0.8)
    return skin


def _bowel(rng: np.random.Generator, canvas: TissueCanvas) -> None:
    """Paint loops of bowel above the bladder, each with stool, fluid or gas that rises to the front."""
    grid = canvas.grid
    for _ in range(int(rng.integers(9, 13))):
        at = (rng.uniform(-62, 62), rng.uniform(-46, 22), rng.uniform(34, 90))
        reach = rng.uniform(-24, 24, 3) * (1, 0.7, 0.7)
        radius = rng.uniform(9, 14)
        loop = capsule(grid, at, at + reach, radius)
        canvas.shell(loop, 2.8, "bowel wall", "stool" if rng.uniform() < 0.7 else "urine")
        if rng.uniform() < 0.55:
            level = at[1] + rng.uniform(-5, 3)
            canvas.paint(np.maximum(loop + 3.5, grid.back - level), "gas")


def _organs(rng: np.random.Generator, canvas: TissueCanvas) -> None:
    """Paint bladder, prostate with its tumour, seminal vesicles and rectum."""
    grid, fill = canvas.grid, rng.uniform(0.8, 1.2)
    rectum_gas, bend = rng.uniform(9, 14), rng.uniform(-7, 7)
    centre = 42 + 0.16 * np.abs(grid.up + 10)
    bent = bend * np.sin(grid.up / 22)
    rectum = np.hypot(grid.left - bent, (grid.back - centre) * 1.05) - rectum_gas - 4 - 1.5 * np.cos(grid.up / 11)
    rectum = np.maximum(rectum, grid.up - 55)
    canvas.shell(rectum, 4.0, "bowel wall", "stool")
    if rng.uniform() < 0.75:
        canvas.paint(np.maximum(rectum + 4.5, grid.back - centre - rng.uniform(-4, 3)), "gas")
    bladder = ellipsoid(grid, (0, -22, 12 + 5 * fill), (43 * fill, 32 * fill**0.7, 30 * fill))
    bladder = bladder + 1.5 * wave_field(rng, grid, 70)
    canvas.shell(bladder, 4.0, "bladder wall", "urine")
    for side in (-1, 1):
        canvas.paint(
            capsule(grid, (side * 7, 16, -10), (side * 26, 20, 0), 6) + wave_field(rng, grid, 14), "seminal vesicles"
        )
    large = rng.uniform(0.85, 1.25)
    prostate = ellipsoid(grid, (0, 0, -32), (25 * large, 19 * large, 21 * large))
    canvas.paint(prostate, "peripheral zone")
    canvas.paint(ellipsoid(grid, (0, -5, -30), (19 * large, 13 * large, 17 * large)), "gland")
    side = rng.choice((-1, 1))
    tumour = ellipsoid(grid, (side * 13 * large, 9 * large, -34), rng.uniform(5.5, 8.5, 3))
    canvas.paint(np.maximum(tumour, prostate + 1), "tumour")
    canvas.paint(capsule(grid, (0, -4, -54), (0, -60, -78), 9), "muscle")


def _hip(rng: np.random.Generator, canvas: TissueCanvas, side: int) -> None:
    """Paint one hip bone (wing, socket, pubis, ischium) and the upper femur."""
    grid, shell = canvas.grid, rng.uniform(2.8, 4.0)
    left, back, up = side * grid.left, grid.back, grid.up
    high = np.clip(up - 4, 0, 90)
    slope = np.clip((left - 44) / (62 + 0.3 * high), 0, 1)
    middle = 58 - 86 * slope - 15 * np.sin(np.pi * slope**1.3) + 7 * np.sin(2 * np.pi * slope) - 0.05 * high
    reach = np.maximum(np.maximum(40 - left, left - (104 + 0.34 * high)), 2 - up)
    thick = 4.0 + 5.5 * slope**4 + 8.0 * (1 - slope) ** 2.5
    wing = np.maximum(np.abs(back - middle) * 0.62 - thick, reach)
    pubis = np.minimum(
        capsule(grid, (side * 9, -66, -38), (side * 62, -30, -14), 9),
        capsule(grid, (side * 8, -64, -44), (side * 48, 18, -78), 8),
    )
    ischium = capsule(grid, (side * 66, 26, -18), (side * 56, 36, -72), 14)
    socket = np.maximum(ellipsoid(grid, (side * 84, -6, -20), (37, 37, 36)), left - 98)
    hip = np.minimum(np.minimum(wing, pubis), np.minimum(ischium, socket))
    canvas.shell(hip, shell, "cortical bone", "marrow")
    canvas.paint(ellipsoid(grid, (side * 94, -6, -23), (29, 29, 29)), "cartilage")
    canvas.paint(np.maximum(ellipsoid(grid, (side * 94, -6, -23), (29, 29, 29)), 102 - left), "muscle")
    head = ellipsoid(grid, (side * 94, -6, -23), (25, 25, 25))
    neck = capsule(grid, (side * 94, -6, -23), (side * 130, 2, -48), 14)
    trochanter = ellipsoid(grid, (side * 136, 8, -44), (16, 21, 25))
    shaft = capsule(grid, (side * 133, 2, -46), (side * 124, -4, -130), 16)
    femur = np.minimum(np.minimum(head, neck), np.minimum(trochanter, shaft))
    canvas.shell(femur, shell, "cortical bone", "marrow")
    canvas.paint(np.maximum(shaft + 6.5, up + 52), "yellow marrow")


def _vessels(rng: np.random.Generator, canvas: TissueCanvas, side: int) -> None:
    """Paint artery and vein, dark in MR as their blood flows, and a lymph node."""
    grid = canvas.grid
    for offset, radius in ((0.0, 4.8), (-10.0, 5.8)):
        top = (side * (44 + offset), 2 - offset * 0.6, 90)
        middle = (side * (62 + offset), -42, 0)
        canvas.paint(capsule(grid, top, middle, radius), "vessel")
        canvas.paint(capsule(grid, middle, (side * (80 + offset), -72, -80), radius), "vessel")
    at = (side * 50 + rng.uniform(-4, 4), -28 + rng.uniform(-6, 6), rng.uniform(0, 40))
    canvas.paint(ellipsoid(grid, at, rng.uniform(3.5, 7, 3)), "node")


def _sacrum(rng: np.random.Generator, canvas: TissueCanvas) -> None:
    """Paint the sacrum, narrower and further back towards the coccyx, with its canal and foramina."""
    grid = canvas.grid
    left, back, up = grid
    share = np.clip((up + 28) / 100, 0, 1)
    middle = 74 + 18 * np.sin(np.pi * np.clip(share * 1.1, 0, 1)) - 20 * share
    half = 8 + 44 * share
    curved = middle + 0.006 * left**2
    body = np.maximum(ellipsoid(grid, (0.0, curved, 0.0), (half, 9 + 14 * share, 1e4)), -28 - up)
    canvas.shell(body, 3.0, "cortical bone", "marrow")
    canal = ellipsoid(grid, (0.0, middle + 7, 0.0), (1 + 9 * share, 4, 1e4))
    canvas.paint(np.where(share > 0.25, canal, 9.0), "fat")
    beat = 4 * np.cos(up * 2 * np.pi / 26) - 3
    for side in (-1, 1):
        hole = np.hypot(left - side * half * 0.48, back - middle) - 3 - beat
        canvas.paint(np.where(share > 0.3, hole, 9.0), "fat")
        canvas.paint(capsule(grid, (side * 16, 88, 40), (side * 40, 72, 90), 13), "muscle", 0.9)


def _metastasis(rng: np.random.Generator, canvas: TissueCanvas) -> None:
    """Paint a lesion into the marrow of one bone: plain in MR, a slight change in CT."""
    side = rng.choice((-1, 1))
    places = ((side * 92, -6, -22), (side * 74, 8, 6), (side * 14, 76, 30), (side * 62, 28, -40))
    at = places[int(rng.integers(len(places)))]
    canvas.paint(ellipsoid(canvas.grid, at, rng.uniform(7, 11, 3)), "metastasis", 0.9)
