"""Where the slices of a data set are kept: in memory, or in files that outlive the process."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from monai_mamba_gen.utils.errors import DataError

__all__ = ["SliceStack", "StoredSlices", "load_slices", "save_slices", "to_store_dtype"]

_INDEX = "index.npy"


class SliceStack:
    """
    The slices of one key of one volume.

    Args:
        source: tensor (N, 1, H, W), or a ``.npy`` file of such an array, which is mapped and not read, each time anew:
            a map that is kept holds a file open, and a data set may have more volumes than a process may open files.

    Example:
        >>> stack = SliceStack(torch.ones(3, 1, 4, 5, dtype=torch.float16))
        >>> len(stack), stack.size, stack[0].dtype
        (3, (4, 5), torch.float32)
    """

    def __init__(self, source: torch.Tensor | Path) -> None:
        self._source = source
        self._shape = tuple(self._array().shape)

    def __len__(self) -> int:
        return self._shape[0]

    def __getitem__(self, row: int) -> torch.Tensor:
        """Return one slice (1, H, W) as float32 that the caller may change."""
        return self._tensor(self._array()[row])

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of a slice."""
        return self._shape[2:]

    def all(self) -> torch.Tensor:
        """Return all slices, (N, 1, H, W) float32."""
        return self._tensor(self._array())

    def _array(self) -> torch.Tensor | np.ndarray:
        if isinstance(self._source, torch.Tensor):
            return self._source
        return np.load(self._source, mmap_mode="r", allow_pickle=False)

    def _tensor(self, part: torch.Tensor | np.ndarray) -> torch.Tensor:
        if isinstance(part, torch.Tensor):
            return part.to(torch.float32, copy=True)
        return torch.from_numpy(np.array(part, dtype=np.float32))


class StoredSlices(NamedTuple):
    """The slices kept of one volume: a stack a key, and per slice its frame, its level and the volume's levels."""

    stacks: dict[str, SliceStack]
    places: np.ndarray  # (N, 3) int64


def to_store_dtype(stack: torch.Tensor, dtype: str | None, where: str = "in memory") -> torch.Tensor:
    """
    Return a stack as it is stored.

    Args:
        stack: float32 tensor.
        dtype: "float16", "float32" or None, which leaves it as it is.
        where: what the error calls the stack.

    Raises:
        DataError: when a finite value does not fit.

    Example:
        >>> to_store_dtype(torch.ones(1, 1, 2, 2), "float16").dtype
        torch.float16
    """
    if dtype is None:
        return stack
    stored = stack.to(getattr(torch, dtype))
    if bool((stored.isfinite() != stack.isfinite()).any()):
        raise DataError(f"{where}: values up to {stack.abs().max().item():g} do not fit {dtype}; scale them first")
    return stored


def save_slices(folder: Path, stacks: Mapping[str, torch.Tensor], places: np.ndarray) -> StoredSlices:
    """
    Write the slices of a volume into a new folder, whole or not at all, and return them mapped.

    Where another process has written the folder in the meantime, its files are taken.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        temporary.chmod(0o755)
        for number, stack in enumerate(stacks.values()):
            np.save(temporary / f"{number}.npy", stack.cpu().numpy(), allow_pickle=False)
        np.save(temporary / _INDEX, places, allow_pickle=False)
        try:
            os.replace(temporary, folder)
        except OSError:
            if not (folder / _INDEX).is_file():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return _open(folder, list(stacks))


def load_slices(folder: Path, keys: list[str]) -> StoredSlices | None:
    """
    Return the slices of a volume from their folder, None where it is not there or one of its files is damaged.

    A damaged folder is removed, so that it can be written again.
    """
    if not folder.is_dir():
        return None
    try:
        return _open(folder, keys)
    except (OSError, ValueError, EOFError):
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _open(folder: Path, keys: list[str]) -> StoredSlices:
    places = np.load(folder / _INDEX, allow_pickle=False)
    paths = {key: folder / f"{number}.npy" for number, key in enumerate(keys)}
    # An empty file cannot be mapped.
    stacks = {key: SliceStack(path if len(places) else torch.from_numpy(np.load(path))) for key, path in paths.items()}
    if any(len(stack) != len(places) for stack in stacks.values()):
        raise ValueError(f"{folder}: slices and index disagree")
    return StoredSlices(stacks, places)
