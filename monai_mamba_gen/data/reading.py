"""Loading with errors that name file and key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import nibabel as nib
from monai.transforms import LoadImage

from monai_mamba_gen.utils.errors import DataError, root_cause

__all__ = ["load_volume"]


def load_volume(
    item: Mapping[str, Any], transform: Callable[[dict[str, Any]], Any], keys: Sequence[str] = ("image",)
) -> dict[str, Any]:
    """
    Apply ``transform`` to ``item`` and turn whatever goes wrong into one line about one file.

    Args:
        item: paths under ``keys``, and anything else; the transform may make keys that it lacks.
        transform: loads and prepares, usually a MONAI ``Compose`` that starts with ``LoadImaged``.
        keys: the keys that are needed.

    Raises:
        DataError: "file <path> (key '<key>'): cannot be read: <reason>", or the `DataError` of a transform as it is, or
            that ``item`` lacks a key.

    Example:
        >>> load_volume({"image": "a.nii.gz"}, lambda item: {"image": len(item["image"])})
        {'image': 8}
    """
    try:
        return transform(dict(item))
    except Exception as error:
        cause = root_cause(error)
        if isinstance(cause, DataError):
            raise cause from None
        path, key, reason = _blame(item, keys, cause)
        raise DataError(f"file {path} (key {key!r}): cannot be read: {reason}") from cause


def _blame(item: Mapping[str, Any], keys: Sequence[str], cause: BaseException) -> tuple[Any, str, str]:
    """Find the first key whose file cannot be loaded by itself; MONAI's error does not name it."""
    present = [key for key in keys if key in item]
    for key in present:
        if _is_colour(item[key]):
            return item[key], key, "a 3-channel colour image (RGB data type), one greyscale channel expected"
        try:
            LoadImage(image_only=True)(item[key])
        except Exception as error:
            return item[key], key, _one_line(root_cause(error))
    if len(present) < len(keys):
        missing = next(key for key in keys if key not in item)
        raise DataError(f"volume {item.get('image', dict(item))}: has no {missing!r}") from cause
    return item[keys[0]], keys[0], _one_line(cause)


def _is_colour(path: Any) -> bool:
    try:
        return nib.load(path).get_data_dtype().names is not None
    except Exception:
        return False


def _one_line(error: BaseException) -> str:
    return f"{' '.join(str(error).split())[:300]} ({type(error).__name__})"
