"""Imported before all else in ``ops``: one clear line where PyTorch is not installed."""

from __future__ import annotations

import importlib.util

if importlib.util.find_spec("torch") is None:
    raise ModuleNotFoundError(
        "monai_mamba_gen needs PyTorch, which is not installed: pip install torch "
        "(pytorch.org names the command for a machine without CUDA)",
        name="torch",
    )
