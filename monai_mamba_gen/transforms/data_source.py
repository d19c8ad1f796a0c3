"""What errors call the data, and what kind of file it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["is_picture", "source_name"]

_PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff")


def source_name(volume: Any) -> str:
    """Return the file a loaded volume comes from, "in memory" where it has none."""
    return str(getattr(volume, "meta", {}).get("filename_or_obj", "in memory"))


def is_picture(volume: Any) -> bool:
    """Whether a loaded volume comes from a file that holds pixels and no geometry."""
    return Path(source_name(volume)).suffix.lower() in _PICTURES
