"""What becomes of the memory that tensors give back."""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_LARGEST = 2**31 - 1
_THRESHOLDS = (2**30, 2**25)  # older versions of glibc take no more than the second
_CHOSEN_ELSEWHERE = (
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "GLIBC_TUNABLES",
    "LD_PRELOAD",
)


def keep_freed_memory() -> bool:
    """
    Let the C library keep freed memory for the next tensors instead of giving it back to the system; for configs.

    By default glibc returns large blocks as soon as they are free, and the next step of a training gets fresh ones, of
    which the system clears each page when it is touched: 13,000 pages and a sixth of the time of a step of VM-DDPM's
    ``tiny`` at 64 px on a CPU. Here the process keeps what it had at its peak until it ends. The peak is the same.

    Nothing is done where the user has chosen otherwise, by a variable of glibc or another allocator (``LD_PRELOAD``),
    or where the C library is not glibc.

    Returns:
        whether it was done.

    Example:
        >>> keep_freed_memory() in (True, False)
        True
    """
    if not sys.platform.startswith("linux") or any(os.environ.get(name) for name in _CHOSEN_ELSEWHERE):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    kept = library.mallopt(_TRIM_THRESHOLD, _LARGEST)
    return bool(kept) and any(library.mallopt(_MMAP_THRESHOLD, size) for size in _THRESHOLDS)
