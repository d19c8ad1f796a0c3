"""Phantom data sets that appear all at once, are used again, and never lie over somebody's files."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monai_mamba_gen.utils.errors import DataError

__all__ = ["write_phantom_folder"]

_MARKER = "phantom.json"


def write_phantom_folder(
    root: str | os.PathLike[str], parameters: dict[str, Any], write: Callable[[Path], None]
) -> Path:
    """
    Make a phantom data set in a temporary folder beside ``root`` and move it there; do nothing where it is already.

    Args:
        root: folder to make; it may exist when it is empty or holds the same phantom.
        parameters: everything the data follow from, of JSON's types; kept in the folder as ``phantom.json``.
        write: writes the files into the folder it is given.

    Returns:
        ``root``.

    Raises:
        DataError: when ``root`` holds something else, or a phantom with other parameters.

    Example:
        >>> folder = Path(tempfile.mkdtemp()) / "phantom"
        >>> root = write_phantom_folder(folder, {"size": 1}, lambda path: (path / "a.txt").write_text("x"))
        >>> sorted(path.name for path in root.iterdir())
        ['a.txt', 'phantom.json']
    """
    root = Path(root)
    if _is_complete(root, parameters):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{root.name}.", suffix=".tmp", dir=root.parent))
    try:
        temporary.chmod(0o755)
        write(temporary)
        (temporary / _MARKER).write_text(json.dumps(parameters, indent=1) + "\n")
        try:
            os.replace(temporary, root)
        except OSError:
            # Another process may have finished the same phantom in the meantime.
            if not _is_complete(root, parameters):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return root


def _is_complete(root: Path, parameters: dict[str, Any]) -> bool:
    """Tell whether ``root`` holds this very phantom; refuse a folder with anything else in it."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / _MARKER).read_text())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise DataError(f"{root} exists and is not a phantom data set: name another folder or an empty one")
    if found != parameters:
        named = ", ".join(f"{key} {found.get(key)!r}" for key in parameters if found.get(key) != parameters[key])
        raise DataError(f"{root} holds a phantom with other parameters ({named}): name another folder or delete it")
    return True
