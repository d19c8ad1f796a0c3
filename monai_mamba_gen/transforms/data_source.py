"""What errors call the data."""

from __future__ import annotations

from typing import Any

__all__ = ["source_name"]


def source_name(volume: Any) -> str:
    """Return the file a loaded volume comes from, "in memory" where it has none."""
    return str(getattr(volume, "meta", {}).get("filename_or_obj", "in memory"))
