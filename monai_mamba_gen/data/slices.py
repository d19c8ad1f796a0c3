"""Two-dimensional slices of volumes and cine series, read once and kept in memory or in files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from monai.transforms import Randomizable
from torch.utils.data import Dataset
from tqdm import tqdm

from monai_mamba_gen.utils.distributed import is_main_process
from monai_mamba_gen.utils.errors import DataError
from monai_mamba_gen.utils.plain_tensor import plain_tensor
from monai_mamba_gen.utils.seeding import derive_seed

from .fingerprint import describe_files, describe_object, fingerprint
from .reading import load_volume
from .slice_store import SliceStack, StoredSlices, load_slices, save_slices, to_store_dtype

__all__ = ["SliceDataset"]

_STORE_DTYPES = (None, "float16", "float32")
_STORE_VERSION = 1


class SliceDataset(Dataset):
    """
    The slices of a list of volumes.

    Each volume goes once, at construction, through ``volume_transform``. A 4D series comes out of MONAI's
    ``LoadImaged`` and ``EnsureChannelFirstd`` as (T, X, Y, Z), time as channel, so percentile scaling sees the whole
    series, and yields T x Z slices; an item with a ``frame`` number yields that frame only. Slices keep MONAI's axis
    order: the first array axis (X of a NIfTI) is H. They are plain tensors, without the volume's affine, so that they
    collate, pickle and share memory cheaply.

    ``transform`` draws its random numbers from the key (seed, epoch, index), so an augmented slice is the same with
    any number of workers or processes and in any order. `set_epoch` reaches persistent workers too.

    Args:
        data: one dict per volume, as of `acdc_datalist`; kept as ``.data``.
        volume_transform: from paths to (C, X, Y) or (C, X, Y, Z), for example a ``Compose`` of ``LoadImaged``,
            ``EnsureChannelFirstd``, ``CheckVolumed``, ``ResizeCenterCropd``, ``ScaleIntensityRangePercentilesd``.
        transform: applied to every item when it is taken, for example ``RandFlipd``.
        keys: keys to slice; the first is the image, the others (labels) must have its shape.
        seed: seed of ``transform``.
        slice_axis: spatial axis to cut along, counted without the channel axis.
        progress: whether to show a progress bar (main process only).
        drop_blank: whether slices whose image is constant are left out.
        keep_key: key of a mask, whether among ``keys`` or not; slices where it is zero everywhere are left out. With
            ``SelectSlicesd`` in ``volume_transform`` it is "selected".
        store_dtype: "float16" keeps slices at half the size; items are float32 all the same. Values in [-1, 1] are
            then off by at most 0.00025.
        cache_dir: folder in which the slices are kept as files and mapped rather than read, so that the next run does
            not preprocess, and processes on one machine share memory. Slices of a volume are used again for the same
            files (path, size, time of change), the same item, ``volume_transform`` of the same settings (see
            `describe_object`) and the same arguments of this class; delete the folder to free the room.
        item_keys: keys of numbers in ``data``, such as a class label, which every slice of the volume gets as a tensor;
            those that no dict of ``data`` has are skipped.

    Raises:
        DataError: when ``data`` is empty, nothing is left of it, a volume cannot be read, shapes disagree, or values do
            not fit ``store_dtype``; the message names file and key.
        ValueError: when ``store_dtype`` is something else.

    Items are dicts: each key as float32 (1, H, W), ``index``, ``patient``, ``phase``, ``group``, ``source`` (file),
    ``slice`` (0-based), ``position`` (0.0 for the volume's first slice to 1.0 for its last), ``frame`` (1-based), and
    what ``item_keys`` name.

    Example:
        >>> def load(item):
        ...     return {"image": torch.rand(1, 8, 8, 5)}
        >>> dataset = SliceDataset([{"image": "a.nii.gz", "patient": "a"}], load, progress=False)
        >>> len(dataset), dataset[0]["image"].shape
        (5, torch.Size([1, 8, 8]))
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        volume_transform: Callable[[dict[str, Any]], Any],
        transform: Callable[[dict[str, Any]], Any] | None = None,
        keys: Sequence[str] | str = ("image",),
        seed: int = 0,
        slice_axis: int = -1,
        progress: bool = True,
        drop_blank: bool = True,
        keep_key: str | None = None,
        store_dtype: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        item_keys: Sequence[str] | str = ("class_label",),
    ) -> None:
        if store_dtype not in _STORE_DTYPES:
            raise ValueError(f"store_dtype must be one of {_STORE_DTYPES}, got {store_dtype!r}")
        self.data = list(data)
        self.transform = transform
        self.keys = (keys,) if isinstance(keys, str) else tuple(keys)
        self.seed = seed
        self.slice_axis = slice_axis
        self.drop_blank = drop_blank
        self.keep_key = keep_key
        self.store_dtype = store_dtype
        self.cache_dir = Path(cache_dir) if cache_dir else None
        # Shared memory, as a persistent worker would never see a plain attribute change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._volumes: list[StoredSlices] = []
        if not self.data:
            raise DataError("data is empty: no volumes to cut into slices")
        self.item_keys = self._check_numbers((item_keys,) if isinstance(item_keys, str) else tuple(item_keys))
        hidden = not (progress and is_main_process())
        settings = self._settings(volume_transform) if self.cache_dir else ""
        for item in tqdm(self.data, desc="volumes", unit="file", disable=hidden, leave=False):
            volume = self._volume(item, volume_transform, settings)
            self._check_size(item, volume)
            self._volumes.append(volume)
        # volume and row in its stacks
        self._rows = [(number, row) for number, volume in enumerate(self._volumes) for row in range(len(volume.places))]
        if not self._rows:
            outside = "" if keep_key is None else f" or without {keep_key!r}"
            raise DataError(f"all slices of all {len(self.data)} volumes are blank{outside} (first: {self._source(0)})")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        position = range(len(self))[index]
        volume, row = self._rows[position]
        frame, level, levels = self._volumes[volume].places[row].tolist()
        item: dict[str, Any] = {key: self._volumes[volume].stacks[key][row] for key in self.keys}
        item |= {name: str(self.data[volume].get(name, "")) for name in ("patient", "phase", "group")}
        item |= {"index": position, "source": self._source(volume), "slice": level}
        item |= {"position": level / max(levels - 1, 1), "frame": frame}
        item |= {key: torch.as_tensor(self.data[volume][key]) for key in self.item_keys}
        if self.transform is None:
            return item
        if isinstance(self.transform, Randomizable):
            self.transform.set_random_state(seed=derive_seed(self.seed, "augment", self.epoch, position))
        item = dict(self.transform(item))
        return {key: plain_tensor(value) for key, value in item.items()}

    @property
    def epoch(self) -> int:
        """The epoch that the augmentation is keyed by."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Key the augmentation by another epoch; call before the epoch's first batch is drawn."""
        self._epoch.fill_(epoch)

    def image(self, index: int) -> torch.Tensor:
        """Return one slice without augmentation, (1, H, W) float32."""
        volume, row = self._rows[range(len(self))[index]]
        return self._volumes[volume].stacks[self.keys[0]][row]

    def images(self) -> torch.Tensor:
        """Return all slices without augmentation, (N, 1, H, W) float32."""
        return torch.cat([volume.stacks[self.keys[0]].all() for volume in self._volumes])

    def _source(self, volume: int) -> str:
        return self._name(self.data[volume])

    def _name(self, item: Mapping[str, Any]) -> str:
        return str(item.get(self.keys[0], ""))

    def _check_numbers(self, keys: Sequence[str]) -> tuple[str, ...]:
        """Return those keys that ``data`` has; each dict must have them, as numbers."""
        found = tuple(key for key in keys if any(key in item for item in self.data))
        for key in found:
            for item in self.data:
                if key not in item:
                    raise DataError(f"volume {self._name(item)}: has no {key!r}, others of the data have")
                try:
                    torch.as_tensor(item[key])
                except (TypeError, ValueError, RuntimeError):
                    raise DataError(f"volume {self._name(item)}: {key!r} is no number, got {item[key]!r}") from None
        return found

    def _settings(self, volume_transform: Callable[[dict[str, Any]], Any]) -> str:
        """Describe everything that the slices of a file depend on besides the file."""
        arguments = (self.keys, self.slice_axis, self.drop_blank, self.keep_key, self.store_dtype)
        versions = (_STORE_VERSION, monai.__version__, torch.__version__)
        return fingerprint(describe_object(volume_transform), describe_object(arguments), repr(versions))

    def _volume(
        self, item: Mapping[str, Any], volume_transform: Callable[[dict[str, Any]], Any], settings: str
    ) -> StoredSlices:
        """Return the slices of one volume: those in the cache, or new ones."""
        folder = None
        if self.cache_dir is not None:
            paths = {key: value for key, value in item.items() if _is_file(value)}
            rest = {key: value for key, value in item.items() if key not in paths}
            files = [describe_files(paths[key]) for key in sorted(paths)]
            folder = self.cache_dir / fingerprint(settings, repr(sorted(paths)), describe_object(rest), *files)
            found = load_slices(folder, list(self.keys))
            if found is not None:
                return found
        needed = self.keys if self.keep_key in (None, *self.keys) else (*self.keys, self.keep_key)
        stacks, places = self._cut_volume(item, load_volume(item, volume_transform, needed), needed)
        stacks = {
            key: to_store_dtype(stacks[key], self.store_dtype, f"file {item.get(key, 'made')} (key {key!r})")
            for key in self.keys
        }
        if folder is None:
            return StoredSlices({key: SliceStack(stack) for key, stack in stacks.items()}, places)
        return save_slices(folder, stacks, places)

    def _cut_volume(
        self, item: Mapping[str, Any], loaded: Mapping[str, Any], keys: Sequence[str]
    ) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        """Cut one loaded volume; return the slices that are kept, and frame, level and number of levels of each."""
        image_key = self.keys[0]
        for key in keys:
            if key not in loaded:
                raise DataError(f"volume {self._name(item)}: has no {key!r} after volume_transform")
        image = self._chosen_frames(item, image_key, plain_tensor(loaded[image_key]))
        frames = image.shape[0]
        stacks = {image_key: self._cut(item, image_key, image)}
        for key in keys[1:]:
            stacks[key] = self._cut(item, key, self._chosen_frames(item, key, plain_tensor(loaded[key])))
            if stacks[key].shape != stacks[image_key].shape:
                raise DataError(
                    f"file {item.get(key, 'made')} (key {key!r}): gives {len(stacks[key])} slices of "
                    f"{tuple(stacks[key].shape[2:])}, its image gives {len(stacks[image_key])} of "
                    f"{tuple(stacks[image_key].shape[2:])}"
                )
        flat = stacks[image_key].flatten(1)
        kept = flat.amin(1) != flat.amax(1) if self.drop_blank else torch.ones(len(flat), dtype=torch.bool)
        if self.keep_key is not None:
            kept &= stacks[self.keep_key].flatten(1).any(1)
        levels = len(flat) // frames
        first = item.get("frame") if frames == 1 and item.get("frame") is not None else 1
        old = kept.nonzero().flatten().numpy()
        places = np.stack([int(first) + old // levels, old % levels, np.full_like(old, levels)], axis=1)
        if not bool(kept.all()):
            stacks = {key: stack[kept].contiguous() for key, stack in stacks.items()}
        return stacks, places

    def _chosen_frames(self, item: Mapping[str, Any], key: str, volume: torch.Tensor) -> torch.Tensor:
        frame, count = item.get("frame"), volume.shape[0]
        if frame is None or (count == 1 and not (item.get("series") and key == self.keys[0])):
            return volume
        if not 1 <= frame <= count:
            raise DataError(f"file {item[key]} (key {key!r}): has {count} frames, frame {frame} is asked for")
        return volume[frame - 1 : frame]

    def _cut(self, item: Mapping[str, Any], key: str, volume: torch.Tensor) -> torch.Tensor:
        """Cut (C, X, Y[, Z]) into (C * Z, 1, H, W) float32."""
        if volume.ndim == 4:
            dim = self.slice_axis + 1 if self.slice_axis >= 0 else self.slice_axis
            volume = volume.movedim(dim, 1).flatten(0, 1)
        elif volume.ndim != 3:
            raise DataError(f"file {item[key]} (key {key!r}): shape {tuple(volume.shape)} is neither 2D nor 3D")
        return volume.unsqueeze(1).to(torch.float32).contiguous()

    def _check_size(self, item: Mapping[str, Any], volume: StoredSlices) -> None:
        size = volume.stacks[self.keys[0]].size
        if self._volumes and self._volumes[0].stacks[self.keys[0]].size != size:
            raise DataError(
                f"file {item[self.keys[0]]} (key {self.keys[0]!r}): slices of {size}, those of the"
                f" files before it are {self._volumes[0].stacks[self.keys[0]].size}; resize in volume_transform"
            )


def _is_file(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike)) and bool(os.fspath(value)) and os.path.exists(value)
