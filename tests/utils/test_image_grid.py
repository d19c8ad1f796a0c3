from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from monai_mamba_gen.utils import image_grid, labelled_rows, save_png


def constant_images(*values: float, size: tuple[int, int] = (3, 4)) -> torch.Tensor:
    return torch.stack([torch.full((1, *size), value) for value in values])


def test_image_grid_lays_out_row_by_row() -> None:
    grid = image_grid(constant_images(-1.0, 0.0, 1.0, 5.0, -7.0, size=(4, 3)), columns=3, gap=1)
    assert grid.shape == (2 * 3 + 1, 3 * 4 + 2)
    assert grid.dtype == np.uint8
    tiles = [grid[top : top + 3, left : left + 4] for top in (0, 4) for left in (0, 5, 10)]
    assert [int(tile[0, 0]) for tile in tiles] == [0, 128, 255, 255, 0, 255]  # clipped; the last place is empty
    assert all((tile == tile[0, 0]).all() for tile in tiles)
    assert (grid[3] == 255).all()


def test_image_grid_draws_the_first_axis_along_rows() -> None:
    ramp = torch.linspace(-1, 1, 12).reshape(1, 1, 3, 4)
    expected = np.round((np.linspace(-1, 1, 12) + 1) / 2 * 255).reshape(3, 4)
    assert np.abs(image_grid(ramp).T.astype(float) - expected).max() <= 1


@pytest.mark.parametrize(("count", "shape"), [(1, (1, 1)), (2, (1, 2)), (4, (2, 2)), (5, (2, 3)), (9, (3, 3))])
def test_image_grid_is_square_by_default(count: int, shape: tuple[int, int]) -> None:
    rows, columns = shape
    assert image_grid(torch.zeros(count, 1, 2, 2), gap=0).shape == (2 * rows, 2 * columns)


def test_image_grid_takes_another_range_and_gradients() -> None:
    images = constant_images(0.0, 1.0).requires_grad_()
    grid = image_grid(images, columns=8, value_range=(0.0, 1.0), gap=0)
    assert grid.shape == (4, 6)
    assert set(np.unique(grid)) == {0, 255}


@pytest.mark.parametrize("shape", [(0, 1, 4, 4), (2, 3, 4, 4), (1, 4, 4)])
def test_image_grid_names_a_bad_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"images must be \(N, 1, H, W\)"):
        image_grid(torch.zeros(shape))


def test_labelled_rows_keep_the_pictures() -> None:
    wide, narrow = (np.full((5, width), value, np.uint8) for width, value in ((60, 7), (20, 9)))
    picture = labelled_rows([("real", wide), ("synthetic", narrow)], header=16)
    assert picture.shape == (2 * (5 + 16), 60)
    assert (picture[16:21] == 7).all()
    assert (picture[37:42, :20] == 9).all()
    assert (picture[37:42, 20:] == 255).all()
    assert (picture[:16] < 128).any()  # text


def test_save_png_writes_whole_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, picture = tmp_path / "new" / "grid.png", np.arange(12, dtype=np.uint8).reshape(3, 4)
    save_png(path, picture)
    assert np.array_equal(np.asarray(Image.open(path)), picture)

    def broken_save(self: Image.Image, target: Path, **_: object) -> None:
        Path(target).write_bytes(b"half a file")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", broken_save)
    with pytest.raises(OSError, match="disk full"):
        save_png(path, picture + 1)
    monkeypatch.undo()
    assert np.array_equal(np.asarray(Image.open(path)), picture)
