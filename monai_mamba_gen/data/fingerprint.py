"""Names for results that say what they were made of and how, so that an old result is never taken for a new one."""

from __future__ import annotations

import enum
import functools
import hashlib
import os
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = ["describe_files", "describe_object", "fingerprint"]


def fingerprint(*parts: str) -> str:
    """Return 32 hexadecimal digits for descriptions in their order."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def describe_files(path: str | os.PathLike[str]) -> str:
    """Return path, size and time of change of a file, or of all files in a folder (a DICOM series)."""
    path = Path(path).absolute()
    files = sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]
    stats = [(file.name, *(file.stat().st_size, file.stat().st_mtime_ns)) for file in files if file.exists()]
    return repr((str(path), stats))


def describe_object(value: Any) -> str:
    """
    Describe an object by its class and its settings, down to what they are made of, without addresses.

    Made for transforms: two that were built with the same arguments are described alike, in any process. Random states
    are left out. Of a function, its name, code, defaults and what it encloses count, of an array its values; globals
    that a function reads do not.

    Args:
        value: a transform, or anything else.

    Example:
        >>> from monai.transforms import RandFlip
        >>> describe_object(RandFlip(0.5)) == describe_object(RandFlip(0.5)) != describe_object(RandFlip(0.4))
        True
    """
    return _describe(value, ())


def _describe(value: Any, above: tuple[int, ...]) -> str:
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, torch.dtype, torch.device, np.dtype)):
        return repr(value)
    if id(value) in above:
        return "..."
    above = (*above, id(value))
    if isinstance(value, enum.Enum):
        return f"{_name(type(value))}.{value.name}"
    if isinstance(value, type):
        return _name(value)
    if isinstance(value, os.PathLike):
        return repr(os.fspath(value))
    if isinstance(value, torch.Tensor):
        return _describe(value.detach().cpu().numpy(), above)
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.ascontiguousarray(value)
        return f"array({array.dtype}, {array.shape}, {hashlib.blake2b(array.tobytes(), digest_size=16).hexdigest()})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(sorted(f'{_describe(k, above)}: {_describe(v, above)}' for k, v in value.items()))}}}"
    if isinstance(value, (set, frozenset)):
        return f"{{{', '.join(sorted(_describe(each, above) for each in value))}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_describe(each, above) for each in value)}]"
    if isinstance(value, functools.partial):
        return f"partial({_describe([value.func, value.args, value.keywords], above)})"
    if isinstance(value, types.MethodType):
        return f"{_describe(value.__func__, above)} of {_describe(value.__self__, above)}"
    if isinstance(value, types.FunctionType):
        return _describe_function(value, above)
    if isinstance(value, (np.random.RandomState, np.random.Generator, torch.Generator)):
        return "random"
    settings = {key: each for key, each in getattr(value, "__dict__", {}).items() if not key.startswith("__")}
    return f"{_name(type(value))}({_describe(settings, above)})"


def _describe_function(value: types.FunctionType, above: tuple[int, ...]) -> str:
    enclosed = [cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType()]
    parts = [_describe_code(value.__code__), value.__defaults__, value.__kwdefaults__, enclosed]
    return f"{value.__module__}.{value.__qualname__}({_describe(parts, above)})"


def _describe_code(code: types.CodeType) -> str:
    constants = [_describe_code(each) if isinstance(each, types.CodeType) else repr(each) for each in code.co_consts]
    return fingerprint(code.co_code.hex(), *constants, *code.co_names)


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
