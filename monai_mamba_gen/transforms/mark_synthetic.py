"""The mark of a synthetic image where no file can be marked."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.transforms import Transform

__all__ = ["MarkSyntheticd"]


class MarkSyntheticd(Transform):
    """
    Add ``synthetic: true`` and what made an image to an entry of the data.

    MONAI Label writes result files itself, without anything of their metadata, but returns the entry ``result`` as part
    of its JSON answer, and keeps it in its datastore beside saved results.

    Args:
        marks: further JSON-like facts, such as model and seed.
        result_key: the entry, a dictionary; made where it is missing.

    Example:
        >>> MarkSyntheticd({"seed": 3})({})["result"]
        {'synthetic': True, 'seed': 3}
    """

    def __init__(self, marks: Mapping[str, Any] | None = None, result_key: str = "result") -> None:
        self.marks = dict(marks or {})
        self.result_key = result_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with the marks."""
        result = dict(data)
        result[self.result_key] = {**(result.get(self.result_key) or {}), "synthetic": True, **self.marks}
        return result
