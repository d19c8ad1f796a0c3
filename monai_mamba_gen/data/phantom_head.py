"""A head drawn from a seed, from the base of the skull to the vertex, for pairs of CT and T1-weighted MR."""

from __future__ import annotations

import numpy as np

from .phantom_tissue import Grid, Tissue, TissueCanvas, capsule, ellipsoid, wave_field

__all__ = ["HEAD_TISSUES", "draw_brain", "draw_head", "posed"]

HEAD_TISSUES = {
    "air": Tissue(-1000, 0.0, 0.0, 0.0),
    "brainstem": Tissue(30, 0.62),
    "cortical bone": Tissue(1250, 0.04, 90.0, 0.01),
    "deep grey matter": Tissue(37, 0.52),
    "diploe": Tissue(520, 0.5, 110.0, 0.08),
    "enhancing rim": Tissue(44, 1.0, 3.0, 0.06),
    "falx": Tissue(58, 0.3),
    "fat": Tissue(-98, 0.95, 8.0, 0.05),
    "fluid": Tissue(6, 0.13, 3.0, 0.01),
    "grey matter": Tissue(38, 0.47, 3.0, 0.03),
    "lens": Tissue(75, 0.35),
    "mucosa": Tissue(35, 0.42),
    "muscle": Tissue(56, 0.38, 8.0, 0.04),
    "necrosis": Tissue(20, 0.2),
    "oedema": Tissue(25, 0.36, 3.0, 0.03),
    "skin": Tissue(10, 0.35),
    "thin bone": Tissue(650, 0.1, 120.0, 0.02),
    "vitreous": Tissue(9, 0.11, 2.0, 0.01),
    "white matter": Tissue(29, 0.72, 3.0, 0.025),
}
"""HU and relative T1-weighted signal. White and grey matter are nearly one in CT, bone and air nearly one in MR."""


def draw_head(rng: np.random.Generator, grid: Grid, softness: float) -> tuple[TissueCanvas, np.ndarray]:
    """
    Draw a head of random size, pose and fold.

    Args:
        rng: where the numbers come from.
        grid: positions in mm; drawn are about 190 mm from ear to ear and 220 mm from nose to occiput.
        softness: half the width of edges in mm.

    Returns:
        The canvas, and the distance in mm to the skin, negative inside.
    """
    grid = posed(rng, grid)
    canvas = TissueCanvas(rng, grid, softness, HEAD_TISSUES)
    below = np.maximum(-(grid.up + 10), 0)
    width, length = rng.uniform(64, 71), rng.uniform(80, 89)
    height = rng.uniform(72, 82)
    back = 0.2 * below - rng.uniform(-3, 3)
    cavity = ellipsoid(
        grid,
        (0.0, back, -10.0),
        (width, length, np.where(grid.up > -10, height, rng.uniform(70, 80))),
    )
    cavity = cavity + 1.2 * wave_field(rng, grid, 60)
    bone = rng.uniform(5.5, 8) + 0.9 * wave_field(rng, grid, 45)
    skin = _outline(rng, grid, width, length, height, below)
    _soft_tissue(rng, canvas, skin, below)
    _skull(rng, canvas, cavity, bone, below)
    draw_brain(rng, canvas, cavity)
    _base_of_skull(rng, canvas, width, length)
    _face(rng, canvas, skin + 5, length)
    canvas.paint(-skin - 0.3, "air")
    return canvas, skin


def posed(rng: np.random.Generator, grid: Grid) -> Grid:
    """Turn and shift the head a little; about the vertical axis most."""
    turn, nod = rng.uniform(-0.12, 0.12), rng.uniform(-0.08, 0.08)
    left, back, up = (axis - rng.uniform(-4, 4) for axis in grid)
    left, back = np.cos(turn) * left + np.sin(turn) * back, np.cos(turn) * back - np.sin(turn) * left
    back, up = np.cos(nod) * back + np.sin(nod) * up, np.cos(nod) * up - np.sin(nod) * back
    return Grid(*(axis.astype(np.float32) for axis in (left, back, up)))


def _outline(
    rng: np.random.Generator, grid: Grid, width: float, length: float, height: float, below: np.ndarray
) -> np.ndarray:
    """Return the distance to the skin: a dome above, a cylinder below, nose and ears."""
    scalp = rng.uniform(11, 14)
    narrow = np.sqrt(1 - np.minimum(below / 190, 0.9) ** 2)
    dome = np.where(grid.up > -10, height + scalp, 1e4)
    head = ellipsoid(grid, (0.0, -0.06 * below, -10.0), ((width + scalp) * narrow, (length + scalp + 1) * narrow, dome))
    front = -(length + scalp)
    nose = capsule(grid, (0, front + 4, -30), (0, front - 12, -56), 9.5)
    ears = np.minimum(
        *(
            ellipsoid(grid, (side * (width + scalp + 2), 12 + 0.25 * (side * grid.left - width), -40), (9, 16, 24))
            for side in (-1, 1)
        )
    )
    return np.minimum(np.minimum(head, nose), ears)


def _soft_tissue(rng: np.random.Generator, canvas: TissueCanvas, skin: np.ndarray, below: np.ndarray) -> None:
    grid = canvas.grid
    canvas.paint(skin, "skin")
    canvas.paint(skin + 2, "fat")
    cheek = rng.uniform(5, 8) + 0.06 * below
    streaks = np.abs(wave_field(rng, grid, 32)) - 0.18
    deep = np.maximum(skin + cheek, -(below - 4))
    canvas.paint(deep, "muscle")
    canvas.paint(np.maximum(deep + 3, 9 * streaks), "fat", 0.8)
    for side in (-1, 1):
        temple = ellipsoid(grid, (side * 70, -28, -18), (11, 30, 32))
        canvas.paint(np.maximum(temple, skin + 5), "muscle")


def _skull(
    rng: np.random.Generator, canvas: TissueCanvas, cavity: np.ndarray, bone: np.ndarray, below: np.ndarray
) -> None:
    """Paint the vault: two tables of dense bone with marrow between them; thinner towards the temples."""
    thickness = bone * (1 - 0.3 * np.clip(1 - np.abs(canvas.grid.back) / 60, 0, 1))
    canvas.paint(cavity - thickness, "cortical bone")
    middle = np.abs(cavity - thickness / 2) - thickness * 0.2
    canvas.paint(np.where(wave_field(rng, canvas.grid, 40) > -1.3, middle, 9.0), "diploe")


def draw_brain(rng: np.random.Generator, canvas: TissueCanvas, cavity: np.ndarray, lesions: bool = True) -> None:
    """
    Paint fluid, folded grey and white matter, the midline, ventricles, deep nuclei, cerebellum and lesions.

    Args:
        rng: where the numbers come from.
        canvas: what to paint on.
        cavity: distance in mm to the inner side of the skull, negative inside.
        lesions: whether to paint one or two small tumours.
    """
    grid = canvas.grid
    canvas.paint(cavity, "fluid")
    wavelength, gap = rng.uniform(26, 31), rng.uniform(0.3, 0.9)
    # Sulci lie where a random field changes sign; the factor turns its value into about mm.
    to_sulcus = np.abs(wave_field(rng, grid, wavelength)) * wavelength / 6.5 + 0.45 * np.maximum(-cavity - 16, 0)
    surface = cavity + rng.uniform(1.2, 2.8)
    canvas.paint(np.maximum(surface, gap - to_sulcus), "grey matter")
    canvas.paint(np.maximum(surface + 3.2, gap + 3.0 - to_sulcus), "white matter")
    fissure = np.abs(grid.left - 1.2 * wave_field(rng, grid, 70)) - 1.1
    away = np.minimum(34 - np.abs(grid.back + 2), 30 - grid.up)
    midline = np.maximum(np.maximum(fissure, np.minimum(away, 9)), cavity + 2)
    canvas.paint(midline - 3.2, "grey matter")
    canvas.paint(midline, "fluid")
    canvas.paint(midline + 0.8, "falx", 0.8)
    if lesions:
        _lesions(rng, canvas, cavity)
    _nuclei_and_ventricles(rng, canvas)
    _cerebellum(rng, canvas, cavity)


def _nuclei_and_ventricles(rng: np.random.Generator, canvas: TissueCanvas) -> None:
    grid, large = canvas.grid, rng.uniform(0.8, 1.35)
    for side in (-1, 1):
        canvas.paint(ellipsoid(grid, (side * 26, -2, -4), (6.5, 17, 11)), "deep grey matter")
        canvas.paint(ellipsoid(grid, (side * 11, 12, -4), (8, 13, 9)), "deep grey matter")
        canvas.paint(ellipsoid(grid, (side * (14 + 3 * large), -18, 6), (5, 11, 11)), "deep grey matter")
        canvas.paint(ellipsoid(grid, (side * 38, 0, -6), (3.2, 18, 14)), "grey matter")
        horn = 0.012 * (grid.back + 2) ** 2 * np.where(grid.back > 0, 0.8, 0.45)
        body = ellipsoid(
            grid, (side * (6.5 * large + horn), 4.0, 12.0), (5.2 * large, 36 * large**0.3, 11 * large**0.5)
        )
        canvas.paint(body, "fluid")
        canvas.paint(ellipsoid(grid, (side * 28, 34, -2), (5 * large, 11, 10)), "fluid")
        canvas.paint(ellipsoid(grid, (side * (40 + 0.1 * grid.back), -12, -14), (3.5, 16, 8)), "fluid")
    canvas.paint(ellipsoid(grid, (0, 6, -6), (2.2 * large, 14, 9)), "fluid")


def _cerebellum(rng: np.random.Generator, canvas: TissueCanvas, cavity: np.ndarray) -> None:
    grid = canvas.grid
    room = cavity + 4
    cerebellum = np.maximum(ellipsoid(grid, (0, 50, -52), (53, 42, 25)), room)
    canvas.paint(np.maximum(cerebellum - 1.5, cavity + 1.5), "fluid")
    canvas.paint(cerebellum, "grey matter")
    leaves = 2.5 * np.cos(grid.back * 0.75 + 0.02 * grid.left**2 + 0.5 * grid.up) + 4.5
    for side in (-1, 1):
        canvas.paint(ellipsoid(grid, (side * 23, 47, -50), (22, 24, 15)) + leaves, "white matter")
    canvas.paint(ellipsoid(grid, (0, 7, -50), (19, 17, 27)), "fluid")
    canvas.paint(ellipsoid(grid, (0, 13, -46), (15, 13, 40)), "brainstem")
    canvas.paint(ellipsoid(grid, (0, 30, -46), (7, 5, 10)), "fluid")


def _lesions(rng: np.random.Generator, canvas: TissueCanvas, cavity: np.ndarray) -> None:
    """Paint one or two tumours: a rim that takes up contrast agent, a dead core, swelling; all near 30 HU in CT."""
    grid = canvas.grid
    for _ in range(int(rng.integers(1, 3))):
        side = rng.choice((-1, 1))
        centre = (side * rng.uniform(22, 40), rng.uniform(-48, 50), rng.uniform(-5, 36))
        size = rng.uniform(8, 15)
        lumps = 2.2 * wave_field(rng, grid, 20)
        tumour = ellipsoid(grid, centre, rng.uniform(0.8, 1.2, 3) * size) + 0.5 * lumps
        canvas.paint(np.maximum(tumour - rng.uniform(5, 10) + 2 * lumps, cavity + 8), "oedema", 0.9)
        tumour = np.maximum(tumour, cavity + 4)
        canvas.paint(tumour, "enhancing rim")
        canvas.paint(tumour + rng.uniform(3.5, 5), "necrosis")


def _base_of_skull(rng: np.random.Generator, canvas: TissueCanvas, width: float, length: float) -> None:
    """Paint the petrous bones with their air cells, the clivus and the sphenoid sinus."""
    grid = canvas.grid
    cells = wave_field(rng, grid, 9)
    for side in (-1, 1):
        petrous = capsule(grid, (side * 20, -6, -58), (side * (width - 6), 20, -56), 8.5)
        canvas.paint(petrous, "cortical bone")
        mastoid = ellipsoid(grid, (side * (width - 4), 24, -62), (10, 15, 18))
        canvas.paint(mastoid, "cortical bone")
        canvas.paint(np.maximum(mastoid + 3, 3 * (cells - 0.1)), "air")
        canvas.paint(capsule(grid, (side * (width - 8), 8, -58), (side * (width + 30), 8, -58), 3.5), "air")
        canvas.paint(np.maximum(petrous + 4, 3 * (cells + 0.7)), "air", 0.8)
        wing = capsule(grid, (side * 14, -34, -40), (side * (width - 8), -42, -34), 4)
        canvas.paint(wing, "thin bone")
    clivus = capsule(grid, (0, -14, -44), (0, 4, -72), 8)
    canvas.shell(clivus, 2.5, "cortical bone", "diploe")
    sphenoid = ellipsoid(grid, (0, -30, -48), (15, 13, 10))
    canvas.paint(sphenoid - 2.5, "thin bone")
    canvas.paint(sphenoid, "air")


def _face(rng: np.random.Generator, canvas: TissueCanvas, face: np.ndarray, length: float) -> None:
    """Paint orbits with eyes, nose with septa, cheek bones and sinuses behind ``face`` (mm, negative inside)."""
    grid, front, sinus = canvas.grid, -(length - 4), rng.uniform(0.85, 1.2)
    nasal = ellipsoid(grid, (0, front + 10, -50), (13, 29, 24))
    canvas.paint(np.maximum(nasal - 2.5, face + 2), "thin bone")
    for side in (-1, 1):
        orbit = ellipsoid(grid, (side * (32 - 0.2 * (grid.back - front)), front + 16, -38), (17, 27, 17))
        canvas.paint(np.maximum(np.maximum(orbit - 3.5, face), front + 1 - grid.back), "cortical bone")
        canvas.paint(np.maximum(orbit, face + 1), "fat")
        canvas.paint(capsule(grid, (side * 30, front + 12, -38), (side * 12, front + 50, -42), 2.6), "muscle")
        for offset in (-9.5, 9.5):
            canvas.paint(
                capsule(grid, (side * 33 + offset, front + 12, -38), (side * 18 + 0.4 * offset, front + 40, -41), 2.2),
                "muscle",
            )
        eye = ellipsoid(grid, (side * 31.5, front + 6, -38), (13, 13.5, 13))
        canvas.shell(eye, 1.6, "muscle", "vitreous")
        canvas.paint(ellipsoid(grid, (side * 31.5, front - 4, -38), (5, 2.4, 5)), "lens")
        maxillary = ellipsoid(grid, (side * 30, front + 20, -72), (15 * sinus, 17, 17 * sinus))
        canvas.paint(np.maximum(maxillary - 2.8, face), "thin bone")
        canvas.paint(np.maximum(maxillary, face + 3), "air")
        arch = capsule(grid, (side * 44, front + 16, -60), (side * 69, front + 54, -60), 4.5)
        canvas.paint(np.maximum(arch, face), "cortical bone")
        frontal = ellipsoid(grid, (side * 9, front - 4, -14), (8 * sinus, 4, 10 * sinus))
        canvas.paint(np.maximum(frontal - 3, face), "cortical bone")
        canvas.paint(np.maximum(frontal, face + 3), "air")
    nasal = np.maximum(nasal, face + 4)
    canvas.paint(nasal, "air")
    canvas.paint(np.maximum(nasal, np.abs(grid.left) - 1.3), "thin bone", 0.7)
    for side in (-1, 1):
        canvas.paint(capsule(grid, (side * 7, front, -60), (side * 8, front + 22, -62), 3.6), "mucosa")
        canvas.paint(np.maximum(nasal, np.abs(grid.left - side * 8) - 0.9), "thin bone", 0.5)
