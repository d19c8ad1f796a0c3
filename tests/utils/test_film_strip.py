from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from monai_mamba_gen.utils import cine_pictures, film_strip, save_gif


def frames(count=4):
    """A column of brightness that moves along x, in slice 1 of 3."""
    result = torch.zeros(count, 6, 5, 3)
    for number in range(count):
        result[number, number, :, 1] = 1.0
    return result


def test_strip_shows_frames_and_differences():
    strip = film_strip(frames(), value_range=(0, 1), gap=1)
    assert strip.shape == (2 * 5 + 1, 4 * 6 + 3) and strip.dtype == np.uint8
    for number in range(4):
        left = number * 7
        tile, below = strip[:5, left : left + 6], strip[6:, left : left + 6]
        expected = np.zeros((5, 6))
        expected[:, number] = 255
        np.testing.assert_array_equal(tile, expected)
        expected[:, 0] = 255
        np.testing.assert_array_equal(below, expected if number else np.zeros((5, 6)))


def test_half_the_range_is_white_in_differences():
    strip = film_strip(torch.tensor([0.0, 0.25, 0.5]).view(3, 1, 1, 1).expand(3, 4, 4, 1), value_range=(0, 1), gap=0)
    assert [strip[7, column] for column in (0, 4, 8)] == [0, 128, 255]


def test_many_frames_are_thinned():
    moving = torch.linspace(0, 1, 25).view(25, 1, 1, 1).expand(25, 4, 4, 1)
    strip = film_strip(moving, value_range=(0, 1), max_frames=5, gap=0)
    assert [int(strip[0, column]) for column in range(0, 20, 4)] == [0, 64, 128, 191, 255]


def test_pictures_and_slices():
    assert cine_pictures(frames(), value_range=(0, 1)).shape == (4, 5, 6)
    assert not cine_pictures(frames(), slice_index=0, value_range=(0, 1)).any()
    flat = cine_pictures(torch.full((2, 4, 4, 1), 7.0))
    assert (flat == 128).all()


def test_gif_has_every_frame_even_equal_ones(tmp_path):
    pictures = cine_pictures(frames(), value_range=(0, 1))
    pictures = np.concatenate([pictures, pictures[-1:], pictures[-1:]])
    for name in ("a.gif", "b.gif"):
        save_gif(tmp_path / name, pictures, 0.05, '{"a": 1}')
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 6 and gif.info["loop"] == 0 and gif.info["comment"] == b'{"a": 1}'
        for number in range(6):
            gif.seek(number)
            pixels = np.asarray(gif.convert("L"))
            factor = 256 // 6
            np.testing.assert_array_equal(pixels[: 5 * factor : factor, ::factor], pictures[number])
            assert (pixels[-1] == 255).sum() == round(6 * factor * (number + 1) / 6) and gif.info["duration"] == 50


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="frames must be"):
        film_strip(torch.zeros(3, 4, 4))
    with pytest.raises(ValueError, match="slice_index"):
        film_strip(frames(), slice_index=3)
    with pytest.raises(ValueError, match="value_range"):
        film_strip(frames(), value_range=(1, 1))
    with pytest.raises(ValueError, match="max_frames"):
        film_strip(frames(), max_frames=1)
    with pytest.raises(ValueError, match="pictures must be"):
        save_gif(tmp_path / "a.gif", np.zeros((3, 4, 4)))
