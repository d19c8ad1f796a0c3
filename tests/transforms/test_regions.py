"""Connected regions against scipy's, and against drawings."""

import numpy as np
import pytest

from monai_mamba_gen.transforms.regions import fill_holes, largest_component


def _masks():
    rng = np.random.default_rng(0)
    for share in (0.2, 0.35, 0.5, 0.7):
        for shape in ((30,), (23, 31), (9, 11, 13)):
            yield rng.random(shape) < share


def test_largest_component_is_scipys():
    ndimage = pytest.importorskip("scipy.ndimage")
    for mask in _masks():
        labels, count = ndimage.label(mask)
        sizes = np.bincount(labels.ravel())[1:]
        largest = largest_component(mask)
        assert largest.sum() == sizes.max() and (mask | ~largest).all()
        assert ndimage.label(largest)[1] == 1 and count > 0


def test_holes_are_scipys():
    ndimage = pytest.importorskip("scipy.ndimage")
    for mask in _masks():
        assert np.array_equal(fill_holes(mask, range(mask.ndim)), ndimage.binary_fill_holes(mask))
    volume = np.random.default_rng(1).random((12, 14, 5)) < 0.6
    filled = fill_holes(volume, (0, 1))
    for level in range(5):
        assert np.array_equal(filled[..., level], ndimage.binary_fill_holes(volume[..., level]))


def test_a_spiral_is_one_region_and_its_inside_is_open():
    picture = """
        #########
        #.......#
        #.#####.#
        #.#...#.#
        #.#.###.#
        #.#.....#
        #.#######
        #........
        #########"""
    mask = np.array([[cell == "#" for cell in row.strip()] for row in picture.split()])
    assert np.array_equal(largest_component(mask), mask) and np.array_equal(fill_holes(mask, (0, 1)), mask)
    mask[7, 8] = True
    assert fill_holes(mask, (0, 1)).all()


def test_corners_do_not_connect():
    mask = np.eye(3, dtype=bool)
    assert largest_component(mask).sum() == 1
    mask[0, 1] = True
    assert largest_component(mask).tolist() == [[True, True, False], [False, True, False], [False] * 3]


def test_empty_and_full():
    for value in (False, True):
        mask = np.full((3, 4), value)
        assert np.array_equal(largest_component(mask), mask) and np.array_equal(fill_holes(mask, (0, 1)), mask)
