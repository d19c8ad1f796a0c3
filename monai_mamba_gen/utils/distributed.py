"""Rank and world size that also answer where no process group exists, and how torchrun's processes come together."""

from __future__ import annotations

import os
from collections.abc import Sized
from datetime import timedelta

import torch
import torch.distributed as dist
from monai.utils import evenly_divisible_all_gather

from .errors import DataError

__all__ = [
    "batch_size_per_process",
    "destroy_process_group",
    "gather_rows",
    "get_rank",
    "get_world_size",
    "init_process_group",
    "is_main_process",
    "local_device",
]


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


def local_device() -> torch.device:
    """Return the GPU that torchrun gave this process (``LOCAL_RANK``), the first one without torchrun, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def init_process_group(timeout_hours: float | None = None) -> None:
    """
    Join the processes that torchrun started: nccl where there are GPUs, gloo where there are none.

    Does nothing where torchrun did not start this process, or a process group is there already.

    Args:
        timeout_hours: how long a process waits for the others; default PyTorch's, which is 10 minutes for nccl. Where
            processes generate for hours and meet at the end, the first to finish would give up before the last.

    Raises:
        ValueError: when timeout_hours is not above 0.
    """
    if timeout_hours is not None and not timeout_hours > 0:
        raise ValueError(f"timeout_hours must be None or above 0, got {timeout_hours!r}")
    if "WORLD_SIZE" not in os.environ or "RANK" not in os.environ or _initialized():
        return
    device = local_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    limit = {} if timeout_hours is None else {"timeout": timedelta(hours=timeout_hours)}
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", **limit)


def destroy_process_group() -> None:
    """Leave the process group; does nothing where there is none."""
    if _initialized():
        dist.destroy_process_group()


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """
    Return the rows of all processes, on the CPU whatever the backend; every process has to call this.

    Args:
        rows: (n, ...), of one type and one shape but for n, which may differ between processes and be 0.

    Example:
        >>> gather_rows(torch.tensor([3, 4])).tolist()
        [3, 4]
    """
    return evenly_divisible_all_gather(rows, concat=True).cpu()


def batch_size_per_process(batch_size: int, dataset: Sized | None = None) -> int:
    """
    Return the share of one process in a batch that all processes make together.

    Args:
        batch_size: size of the batch over all processes, a multiple of their number.
        dataset: data set of which whole batches are taken, and that must give at least one.

    Raises:
        ValueError: when ``batch_size`` is not a positive multiple of the number of processes.
        DataError: when the data set is smaller than one batch, or torchrun started several processes and none of them
            has called `init_process_group`.

    Example:
        >>> batch_size_per_process(16, range(100))
        16
    """
    world_size = get_world_size()
    if not _initialized() and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise DataError(
            f"torchrun started {os.environ['WORLD_SIZE']} processes that do not know of each other: "
            "add configs/multi_gpu_train.json to config_file"
        )
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1 or batch_size % world_size:
        allowed = "a positive integer" if world_size == 1 else f"a positive multiple of the {world_size} processes"
        raise ValueError(f"batch_size must be {allowed}, got {batch_size!r}")
    if dataset is not None and len(dataset) < batch_size:
        raise DataError(f"the training data make {len(dataset)} images, not one batch of batch_size {batch_size}")
    return batch_size // world_size
