"""One slice of a translated volume beside what it was made from and what it should be."""

from __future__ import annotations

from collections.abc import Sequence

import nibabel as nib
import numpy as np
import torch
from PIL import Image, ImageDraw

__all__ = ["middle_slice", "translation_picture"]

_HEADER = 16  # rows of the line of text above a tile
_BESIDE = {"L": 0, "R": 1, "P": 0, "A": 1, "S": 0, "I": 1}  # whether an axis that grows towards this is flipped
_BELOW = {"P": 0, "A": 1, "I": 0, "S": 1, "L": 0, "R": 1}


def middle_slice(mask: np.ndarray | torch.Tensor) -> int:
    """
    Return the number of the slice in the middle of those that a mask (H, W, D) reaches, of all where it is empty.

    Example:
        >>> mask = torch.zeros(4, 4, 9)
        >>> mask[1:3, 1:3, 4:9] = 1
        >>> middle_slice(mask)
        6
    """
    mask = np.asarray(torch.as_tensor(mask).detach().cpu())
    reached = np.flatnonzero((mask > 0).any(axis=(0, 1)))
    return int(reached[len(reached) // 2]) if len(reached) else mask.shape[2] // 2


def translation_picture(
    source: np.ndarray | torch.Tensor,
    true: np.ndarray | torch.Tensor | None,
    pred: np.ndarray | torch.Tensor,
    std: np.ndarray | torch.Tensor | None = None,
    slice_index: int | None = None,
    *,
    mask: np.ndarray | torch.Tensor | None = None,
    affine: np.ndarray | torch.Tensor | None = None,
    direction: str = "ct2mr",
    value_range: Sequence[float] = (-1.0, 1.0),
    error_share: float = 0.25,
    tile_size: int = 192,
    gap: int = 2,
) -> np.ndarray:
    """
    Draw CT, true MR, synthetic MR and error, and where there is one the standard deviation, beside each other.

    Error is |synthetic - true|, black for none and white for ``error_share`` of the range or more; the standard
    deviation is drawn on the same scale. Each tile has its name above it.

    Args:
        source: (H, W, D) or (H, W), the CT, in ``value_range``.
        true: the same shape, or None, which leaves it and the error out.
        pred: the same shape.
        std: the same shape, or None.
        slice_index: the slice along the last axis; default the middle one.
        mask: the same shape; outside it the true volume is drawn black and there is no error.
        affine: (4, 4), voxel index to mm: slices are turned so that the patient's right is on the left and the
            front (or the head) is up, in sagittal slices the front on the left, and pixels are drawn square. None:
            x along the rows, as in `image_grid`.
        direction: "ct2mr", or "mr2ct", where the source is the MR.
        value_range: values shown as black and white.
        error_share: see above.
        tile_size: tiles are enlarged by repeating pixels, by a whole factor where pixels are square, until they are
            about this wide or high.
        gap: pixels between the tiles.

    Returns:
        uint8 picture (rows, columns).

    Raises:
        ValueError: when an argument is none of these.

    Example:
        >>> ct, mr = torch.zeros(64, 48, 5), torch.ones(64, 48, 5)
        >>> translation_picture(ct, mr, ct).shape
        (160, 774)
    """
    given = {"source": source, "true": true, "pred": pred, "std": std, "mask": mask}
    slices = _slices({name: volume for name, volume in given.items() if volume is not None}, slice_index)
    if len(value_range) != 2 or not value_range[0] < value_range[1]:
        raise ValueError(f"value_range must be (low, high) with low < high, got {tuple(value_range)}")
    if direction not in ("ct2mr", "mr2ct"):
        raise ValueError(f"direction must be 'ct2mr' or 'mr2ct', got {direction!r}")
    if not 0 < error_share <= 1:
        raise ValueError(f"error_share must be above 0 and at most 1, got {error_share}")
    low, width = float(value_range[0]), float(value_range[1]) - float(value_range[0])
    before, after = ("CT", "MR") if direction == "ct2mr" else ("MR", "CT")
    inside = slices["mask"] > 0 if "mask" in slices else np.ones(slices["pred"].shape, dtype=bool)
    scale = f"white: {100 * error_share:g} %"
    tiles = [(before, (slices["source"] - low) / width)]
    if "true" in slices:
        tiles.append((f"true {after}", np.where(inside, (slices["true"] - low) / width, 0)))
    tiles.append((f"synthetic {after}", (slices["pred"] - low) / width))
    if "true" in slices:
        error = np.abs(slices["pred"] - slices["true"]) / (width * error_share)
        tiles.append((f"error ({scale})", np.where(inside, error, 0)))
    if "std" in slices:
        tiles.append((f"std ({scale})", slices["std"] / (width * error_share)))
    return _side_by_side([(name, _tile(values, affine, tile_size)) for name, values in tiles], gap)


def _slices(volumes: dict[str, np.ndarray | torch.Tensor], slice_index: int | None) -> dict[str, np.ndarray]:
    """Return one slice (H, W) of each volume."""
    arrays = {name: np.asarray(torch.as_tensor(each).detach().cpu().double()) for name, each in volumes.items()}
    shape = arrays["pred"].shape
    if len(shape) not in (2, 3) or 0 in shape or any(array.shape != shape for array in arrays.values()):
        found = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"volumes must all be (H, W, D) or (H, W) and not empty, got {found}")
    if len(shape) == 2:
        arrays, shape = {name: array[..., None] for name, array in arrays.items()}, (*shape, 1)
    index = shape[2] // 2 if slice_index is None else slice_index
    if not 0 <= index < shape[2]:
        raise ValueError(f"slice_index must be from 0 to {shape[2] - 1}, got {index}")
    return {name: array[..., index] for name, array in arrays.items()}


def _tile(values: np.ndarray, affine: np.ndarray | torch.Tensor | None, tile_size: int) -> np.ndarray:
    """Return a slice (H, W) of values from 0 to 1 as an upright picture."""
    picture, spacing = values.T, (1.0, 1.0)  # rows and columns
    if affine is not None:
        matrix = np.asarray(torch.as_tensor(affine).detach().cpu().double())
        sizes = np.linalg.norm(matrix[:3, :3], axis=0)
        codes = nib.aff2axcodes(matrix)
        turned = codes[1] in "LR" or (codes[0] not in "LR" and codes[1] in "AP")
        column, row = (1, 0) if turned else (0, 1)
        picture = values if turned else values.T
        picture = picture[:: -1 if _BELOW[codes[row]] else 1, :: -1 if _BESIDE[codes[column]] else 1]
        spacing = (sizes[row] / sizes[[0, 1]].min(), sizes[column] / sizes[[0, 1]].min())
    rows, columns = (size * step for size, step in zip(picture.shape, spacing, strict=True))
    factor = max(1, round(tile_size / max(rows, columns)))
    pixels = np.round(np.clip(np.nan_to_num(picture), 0, 1) * 255).astype(np.uint8)
    size = (max(1, round(columns * factor)), max(1, round(rows * factor)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST))


def _side_by_side(tiles: Sequence[tuple[str, np.ndarray]], gap: int) -> np.ndarray:
    height, width = tiles[0][1].shape
    canvas = Image.new("L", (len(tiles) * (width + gap) - gap, height + _HEADER), 255)
    draw = ImageDraw.Draw(canvas)
    for number, (name, tile) in enumerate(tiles):
        left = number * (width + gap)
        draw.text((left + 2, 2), name, fill=0)
        canvas.paste(Image.fromarray(tile), (left, _HEADER))
    return np.asarray(canvas)
