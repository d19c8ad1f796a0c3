"""Rank and world size that also answer where no process group exists."""

from __future__ import annotations

import torch.distributed as dist

__all__ = ["get_rank", "get_world_size", "is_main_process"]


def _initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_rank() -> int:
    """Return this process's rank, 0 where no process group is initialised."""
    return dist.get_rank() if _initialized() else 0


def get_world_size() -> int:
    """Return the number of processes, 1 where no process group is initialised."""
    return dist.get_world_size() if _initialized() else 1


def is_main_process() -> bool:
    """Return whether this process is the one that writes files."""
    return get_rank() == 0
