"""Distances against formulas, fields against their statistics, painting against arithmetic."""

import numpy as np
import pytest

from monai_mamba_gen.data.phantom_tissue import Tissue, TissueCanvas, capsule, ellipsoid, make_grid, wave_field

GRID = make_grid((9, 7, 5), (2.0, 3.0, 4.0))


def test_grid_is_in_mm_around_the_middle():
    assert GRID.left[:, 0, 0].tolist() == [-8, -6, -4, -2, 0, 2, 4, 6, 8]
    assert GRID.back[0, -1, 0] == 9 and GRID.up[0, 0, 0] == -8


def test_sphere_rod_and_cylinder_are_exact():
    radius = np.sqrt(sum(axis**2 for axis in GRID))
    away = radius > 0
    assert np.allclose(ellipsoid(GRID, (0, 0, 0), (5, 5, 5))[away], radius[away] - 5, atol=1e-4)
    assert np.allclose(capsule(GRID, (0, 0, 0), (0, 0, 0), 2), radius - 2, atol=1e-4)
    cylinder = np.hypot(GRID.left, GRID.back)
    assert np.allclose(ellipsoid(GRID, (0, 0, 0), (5, 5, 1e6))[cylinder > 0], cylinder[cylinder > 0] - 5, atol=1e-3)
    rod = capsule(GRID, (0, 0, -4), (0, 0, 4), 1)
    assert rod[4, 3, 2] == -1 and np.isclose(rod[4, 3, 4], 3) and np.isclose(rod[6, 3, 2], 3)


def test_ellipsoid_is_zero_on_its_surface_and_negative_inside():
    for point in ((3, 0, 0), (0, 5, 0), (0, 0, 2)):
        grid = type(GRID)(*(np.full((1, 1, 1), float(axis)) for axis in point))
        assert abs(ellipsoid(grid, (0, 0, 0), (3, 5, 2)).item()) < 1e-6
        assert ellipsoid(grid, (0, 0, 0), (3.5, 5.5, 2.5)).item() < -0.3
    assert np.isfinite(ellipsoid(GRID, (0, 0, 0), (3, 5, 2))).all()


def test_field_has_unit_variance_and_is_the_same_at_any_resolution():
    coarse, fine = make_grid((20, 20, 20), (4, 4, 4)), make_grid((39, 39, 39), (2, 2, 2))
    fields = [wave_field(np.random.default_rng(0), grid, 15) for grid in (coarse, fine)]
    assert fields[0].std() == pytest.approx(1, abs=0.2) and abs(fields[0].mean()) < 0.2
    assert np.allclose(fields[1][::2, ::2, ::2], fields[0], atol=1e-3)


def test_painting_covers_by_distance():
    tissues = {"bone": Tissue(1000, 0.0, 0, 0), "fat": Tissue(-100, 1.0, 0, 0)}
    canvas = TissueCanvas(np.random.default_rng(0), GRID, 1.0, tissues)
    assert (canvas.ct == -1000).all() and (canvas.mr == 0).all()
    canvas.paint(np.float32(-5), "fat")
    mr = canvas.mr[0, 0, 0]
    assert np.allclose(canvas.ct, -100) and 0.85 < mr < 1.15 and np.allclose(canvas.mr, mr)
    canvas.paint(np.float32(0), "bone")
    assert np.allclose(canvas.ct, 450) and np.allclose(canvas.mr, mr / 2)
    canvas.paint(np.float32(5), "fat")
    assert np.allclose(canvas.ct, 450)
    canvas.shell(GRID.left, 4.0, "fat", "bone")
    assert np.allclose(canvas.ct[:, 0, 0], [1000] * 2 + [450] + [-100] * 1 + [175] + [450] * 4)
