"""Names of checkpoint files, and writing them so that a reader never meets half of one."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch

from ..utils.atomic_write import atomic_write

__all__ = ["atomic_save", "checkpoint_path", "list_checkpoints", "remove_stale_files"]

_CHECKPOINT = re.compile(r"checkpoint_epoch=(\d+)\.pt")
_TEMPORARY = re.compile(r"\.(checkpoint_epoch=\d+|model)\.(pt|json)\.\d+\.tmp")


def checkpoint_path(save_dir: str | os.PathLike[str], epoch: int) -> Path:
    """Return the path of the checkpoint of one epoch."""
    return Path(save_dir) / f"checkpoint_epoch={epoch}.pt"


def list_checkpoints(save_dir: str | os.PathLike[str]) -> list[tuple[int, Path]]:
    """Return ``(epoch, path)`` of every checkpoint in a folder, newest epoch first; unfinished files are not listed."""
    save_dir = Path(save_dir)
    if not save_dir.is_dir():
        return []
    found = [(match, path) for path in save_dir.iterdir() if (match := _CHECKPOINT.fullmatch(path.name))]
    return sorted(((int(match[1]), path) for match, path in found), reverse=True)


def remove_stale_files(save_dir: str | os.PathLike[str]) -> None:
    """Remove what a killed process left of `atomic_save` in a folder."""
    for path in Path(save_dir).iterdir():
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def atomic_save(content: Any, path: str | os.PathLike[str]) -> None:
    """
    ``torch.save`` through a temporary file in the same folder, flushed to disk before it takes the final name.

    ignite's ``DiskSaver(atomic=True)`` is not used because the name of its temporary file cannot be told from other
    files, so what a killed process leaves could not be cleaned.

    Args:
        content: what to save; tensors, numbers, strings and containers of them, so that it loads with
            ``weights_only=True``.
        path: final path; the folder exists.
    """
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
