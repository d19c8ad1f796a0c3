"""The first stage of a training in two stages, trained along where a demo starts with the second."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .distributed import get_world_size

__all__ = ["train_first_stage"]


def train_first_stage(
    weights: str | os.PathLike[str] | None,
    folder: str | os.PathLike[str],
    config_files: Sequence[str],
    settings: Mapping[str, Any] | None = None,
) -> bool:
    """
    Run the training that writes some weights, where they are missing; for the configs of demos.

    Nothing is done without names of configs, where the configs are not in the folder, and in several processes: what
    needs the weights then says that they are missing.

    Args:
        weights: the file; None: there is no first stage.
        folder: folder of the configs.
        config_files: names of the configs, to be merged.
        settings: values that replace those of the configs.

    Returns:
        Whether a training was run.

    Example:
        >>> train_first_stage("autoencoder.pt", "configs", [])
        False
    """
    paths = [Path(folder) / name for name in config_files]
    if weights is None or Path(weights).is_file() or not paths or get_world_size() > 1:
        return False
    if not all(path.is_file() for path in paths):
        return False
    import monai.bundle

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # MONAI warns of every config that it could hold code
        monai.bundle.run(
            run_id="training", config_file=[str(path) for path in paths], logging_file=False, **(settings or {})
        )
    return True
