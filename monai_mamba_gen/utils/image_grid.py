"""Pictures of many samples in one PNG."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from .atomic_write import atomic_write

__all__ = ["SYNTHETIC_MARKS", "image_grid", "labelled_rows", "save_png"]

SYNTHETIC_MARKS = {"Synthetic": "true", "DigitalSourceType": "trainedAlgorithmicMedia"}


def _to_uint8(images: torch.Tensor, value_range: tuple[float, float]) -> np.ndarray:
    """Map (N, 1, H, W) in ``value_range`` to pictures (N, W, H) uint8; values outside are clipped."""
    low, high = value_range
    scaled = (torch.as_tensor(images).detach().cpu().float() - low) / (high - low)
    return (scaled.clamp(0, 1) * 255).round().to(torch.uint8)[:, 0].mT.numpy()


def image_grid(
    images: torch.Tensor, columns: int | None = None, value_range: tuple[float, float] = (-1.0, 1.0), gap: int = 2
) -> np.ndarray:
    """
    Lay greyscale images out in a grid, row by row.

    MONAI's arrays have x first, be they read from NIfTI or from PNG; pictures have it along their rows. So each image
    is drawn transposed, as MONAI's writers of pictures do.

    Args:
        images: (N, 1, H, W) in ``value_range``.
        columns: images a row; default the square root of N, rounded up.
        value_range: values shown as black and white.
        gap: pixels between images.

    Returns:
        uint8 array of the whole picture.

    Raises:
        ValueError: when images is not (N, 1, H, W) with N >= 1.
    """
    if images.ndim != 4 or images.shape[1] != 1 or images.shape[0] == 0:
        raise ValueError(f"images must be (N, 1, H, W) with N >= 1, got {tuple(images.shape)}")
    tiles = _to_uint8(images, value_range)
    count, height, width = tiles.shape
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / columns)
    canvas = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap), 255, dtype=np.uint8)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        top, left = row * (height + gap), column * (width + gap)
        canvas[top : top + height, left : left + width] = tile
    return canvas


def labelled_rows(grids: Sequence[tuple[str, np.ndarray]], header: int = 16) -> np.ndarray:
    """Stack pictures under each other, each below a line of text that names it."""
    width = max(grid.shape[1] for _, grid in grids)
    canvas = Image.new("L", (width, sum(grid.shape[0] + header for _, grid in grids)), 255)
    draw, top = ImageDraw.Draw(canvas), 0
    for label, grid in grids:
        draw.text((2, top + 2), label, fill=0)
        canvas.paste(Image.fromarray(grid), (0, top + header))
        top += grid.shape[0] + header
    return np.asarray(canvas)


def save_png(path: str | os.PathLike[str], picture: np.ndarray, marks: Mapping[str, str] | None = None) -> None:
    """
    Write a uint8 picture as PNG through a temporary file, so that a reader never meets half of it.

    Args:
        path: the file; its folder is made where missing.
        picture: (rows, columns) uint8.
        marks: text chunks, such as `SYNTHETIC_MARKS` for pictures of synthetic images.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = PngInfo()
    for key, value in (marks or {}).items():
        text.add_text(key, value)
    with atomic_write(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG", pnginfo=text)
