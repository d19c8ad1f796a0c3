"""Optional packages, imported where they are used, with an error that names the extra to install."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["import_optional"]


def import_optional(module: str, extra: str) -> ModuleType:
    """
    Import an optional module.

    Args:
        module: dotted name of the module.
        extra: the extra of this package that installs it.

    Raises:
        ImportError: when it cannot be imported; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{module} is needed here: pip install 'monai_mamba_gen[{extra}]' ({error})") from error
