"""Whole volumes with their geometry, one at a time, for inference and evaluation."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.utils.data import Dataset

from monai_mamba_gen.utils.errors import DataError

from .reading import load_volume
from .volume_files import unfinished_volumes

__all__ = ["VolumeDataset"]

_TEXTS = ("patient", "region")


class VolumeDataset(Dataset):
    """
    One item a volume, read when it is taken, with affine and file name (MetaTensors stay what they are).

    Args:
        data: one dict per volume with paths and ``patient``, as of `ct_inputs` or `synthrad_datalist`; kept as
            ``.data``.
        preprocessing: from paths to volumes, for example a ``Compose`` of ``LoadImaged``, ``EnsureChannelFirstd`` and
            `ScaleIntensityWindowd`.
        keys: keys that hold paths, all that ``preprocessing`` sees of them; the first must be in every item.
        output_dir: folder of a run to continue, whose finished volumes are left out; default: nothing is left out.
        direction: "ct2mr" or "mr2ct": how the finished files are named.

    Raises:
        DataError: when ``data`` is empty, or an item is taken that cannot be read; names file and key.

    Items are dicts: what ``preprocessing`` returns under ``keys``, ``image_path`` where ``keys`` begins with
    ``image`` (and so on), ``index``, ``patient`` and ``region`` ("" where there is none).

    Example:
        >>> import torch
        >>> def load(item):
        ...     return {"image": torch.zeros(1, 8, 8, 4)}
        >>> dataset = VolumeDataset([{"image": "a.nii.gz", "patient": "a"}], load)
        >>> len(dataset), dataset[0]["image"].shape, dataset[0]["image_path"]
        (1, torch.Size([1, 8, 8, 4]), 'a.nii.gz')
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        preprocessing: Callable[[dict[str, Any]], Any],
        keys: Sequence[str] | str = ("image",),
        output_dir: str | os.PathLike[str] | None = None,
        direction: str = "ct2mr",
    ) -> None:
        self.data = [dict(item) for item in data]
        if not self.data:
            raise DataError("data is empty: no volumes")
        if output_dir is not None:
            self.data = unfinished_volumes(self.data, output_dir, direction)
        self.preprocessing = preprocessing
        self.keys = (keys,) if isinstance(keys, str) else tuple(keys)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        position = range(len(self))[index]
        item = self.data[position]
        present = [key for key in self.keys if key in item]
        given = {key: item[key] for key in (*present, *_TEXTS) if key in item}
        loaded = load_volume(given, self.preprocessing, present or self.keys[:1])
        result: dict[str, Any] = {key: loaded[key] for key in self.keys if key in loaded}
        result |= {f"{key}_path": os.fspath(item[key]) for key in present}
        result |= {name: str(item.get(name, "")) for name in _TEXTS}
        return result | {"index": position}
