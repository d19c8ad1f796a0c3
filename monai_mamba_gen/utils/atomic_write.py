"""Files that are whole or absent."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["atomic_write", "remove_leftovers"]

_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """
    Give a temporary path beside ``path`` to write to; on leaving, it takes the final name, or is removed on an error.

    Args:
        path: the file to write; its folder exists.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_write(f"{folder}/a.txt") as temporary:
        ...         _ = temporary.write_text("whole")
        ...     os.listdir(folder)
        ['a.txt']
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: str | os.PathLike[str], before: float) -> list[str]:
    """
    Remove the temporary files that killed processes left in a folder, and return their names.

    Args:
        folder: the folder; its sub-folders are left alone. It need not exist.
        before: seconds since 1970, as of ``time.time()``: files changed later may belong to a process that is alive.

    Example:
        >>> remove_leftovers("nowhere", before=0.0)
        []
    """
    removed = []
    for path in sorted(Path(folder).glob(".*.tmp")):
        try:
            if _TEMPORARY.fullmatch(path.name) and path.is_file() and path.stat().st_mtime < before:
                path.unlink()
                removed.append(path.name)
        except FileNotFoundError:  # its process was alive after all
            continue
    return removed
