"""Pictures of a cine: a strip of its frames and an animated GIF."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .atomic_write import atomic_write
from .image_grid import image_grid

__all__ = ["cine_pictures", "film_strip", "save_gif"]

_BAR = 3  # rows of the bar below a GIF's pictures
_BROWSERS_SLOWEST = 0.02  # browsers slow pictures shown for less down to a tenth of a second


def _slices(frames: np.ndarray | torch.Tensor, slice_index: int | None) -> torch.Tensor:
    """Return one slice of each frame, (T, H, W)."""
    frames = torch.as_tensor(frames).detach().cpu()
    if frames.ndim != 4 or frames.numel() == 0:
        raise ValueError(f"frames must be (T, H, W, D) and not empty, got {tuple(frames.shape)}")
    index = frames.shape[-1] // 2 if slice_index is None else slice_index
    if not 0 <= index < frames.shape[-1]:
        raise ValueError(f"slice_index must be from 0 to {frames.shape[-1] - 1}, got {index}")
    return frames[..., index].float()


def _window(slices: torch.Tensor, value_range: Sequence[float] | None) -> tuple[float, float]:
    if value_range is None:
        low, high = np.percentile(slices[0].numpy(), [0.5, 99.5]).tolist()
        return (low, high) if low < high else (low - 1, low + 1)
    if not value_range[0] < value_range[1]:
        raise ValueError(f"value_range must be (low, high) with low < high, got {tuple(value_range)}")
    return float(value_range[0]), float(value_range[1])


def film_strip(
    frames: np.ndarray | torch.Tensor,
    slice_index: int | None = None,
    value_range: Sequence[float] | None = None,
    max_frames: int = 12,
    gap: int = 2,
) -> np.ndarray:
    """
    Draw one slice of a cine as two rows: its frames, and below each how far it differs from the first.

    The differences are absolute, black for none; half of ``value_range`` is white.

    Args:
        frames: (T, H, W, D), the first at end diastole.
        slice_index: the slice; default the middle one.
        value_range: values shown as black and white; default the 0.5 and 99.5 percentile of the first frame's slice.
        max_frames: of more frames this many are drawn, evenly chosen, the first and the last among them.
        gap: pixels between pictures.

    Returns:
        uint8 picture, x along its rows as in `image_grid`.

    Raises:
        ValueError: when an argument is none of these.

    Example:
        >>> film_strip(torch.rand(5, 16, 12, 3)).shape
        (26, 88)
    """
    if max_frames < 2:
        raise ValueError(f"max_frames must be at least 2, got {max_frames}")
    slices = _slices(frames, slice_index)
    low, high = _window(slices, value_range)
    if len(slices) > max_frames:
        slices = slices[torch.linspace(0, len(slices) - 1, max_frames).round().long()]
    scaled = (slices - low) / (high - low)
    difference = (scaled - scaled[:1]).abs() * 2
    return image_grid(torch.cat([scaled, difference])[:, None], len(slices), (0.0, 1.0), gap)


def cine_pictures(
    frames: np.ndarray | torch.Tensor, slice_index: int | None = None, value_range: Sequence[float] | None = None
) -> np.ndarray:
    """
    Return one slice of each frame as uint8 pictures (T, W, H), for `save_gif`.

    Args:
        frames: (T, H, W, D).
        slice_index: the slice; default the middle one.
        value_range: values shown as black and white; default the 0.5 and 99.5 percentile of the first frame's slice.

    Raises:
        ValueError: when an argument is none of these.
    """
    slices = _slices(frames, slice_index)
    window = _window(slices, value_range)
    return np.stack([image_grid(picture[None, None], 1, window, 0) for picture in slices])


def save_gif(
    path: str | os.PathLike[str],
    pictures: np.ndarray,
    seconds_per_frame: float = 0.1,
    comment: str = "",
    min_size: int = 256,
) -> None:
    """
    Write an animated GIF that plays for ever. The same arguments give the same bytes.

    A bar below the pictures shows the time that has passed. It also keeps a frame apart from an equal one before it,
    which Pillow would merge into one.

    Args:
        path: the file; its folder is made where missing.
        pictures: (T, rows, columns) uint8.
        seconds_per_frame: GIF counts in hundredths, and no frame is shown for less than two of them.
        comment: ASCII text inside the file.
        min_size: small pictures are enlarged by a whole factor up to about this many pixels along their longer side.

    Raises:
        ValueError: when pictures is none.
    """
    pictures = np.asarray(pictures)
    if pictures.ndim != 3 or pictures.dtype != np.uint8 or pictures.size == 0:
        raise ValueError(f"pictures must be (T, rows, columns) uint8, got {pictures.shape} {pictures.dtype}")
    factor = max(1, min_size // max(pictures.shape[1:]))
    large = pictures.repeat(factor, axis=1).repeat(factor, axis=2)
    count, _, columns = large.shape
    bars = np.zeros((count, _BAR, columns), dtype=np.uint8)
    for index in range(count):
        bars[index, :, : max(1, round(columns * (index + 1) / count))] = 255
    images = [Image.fromarray(np.concatenate([picture, bar])) for picture, bar in zip(large, bars, strict=True)]
    duration = int(max(seconds_per_frame, _BROWSERS_SLOWEST) * 100 + 0.5) * 10
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        images[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=images[1:],
            duration=duration,
            loop=0,
            comment=comment.encode("ascii", "backslashreplace"),
            optimize=False,
        )
