"""Two-dimensional slices of volumes and cine series, read once and kept in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Randomizable
from torch.utils.data import Dataset
from tqdm import tqdm

from monai_mamba_gen.utils.distributed import is_main_process
from monai_mamba_gen.utils.errors import DataError
from monai_mamba_gen.utils.seeding import derive_seed

from .reading import load_volume

__all__ = ["SliceDataset"]


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

    Raises:
        DataError: when ``data`` is empty, nothing is left of it, a volume cannot be read, or shapes disagree; the
            message names file and key.

    Items are dicts: each key as float32 (1, H, W), ``index``, ``patient``, ``phase``, ``group``, ``source`` (file),
    ``slice`` (0-based) and ``frame`` (1-based).

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
    ) -> None:
        self.data = list(data)
        self.transform = transform
        self.keys = (keys,) if isinstance(keys, str) else tuple(keys)
        self.seed = seed
        self.slice_axis = slice_axis
        # Shared memory, as a persistent worker would never see a plain attribute change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._slices: dict[str, list[torch.Tensor]] = {key: [] for key in self.keys}
        self._index: list[tuple[int, int, int, int]] = []  # volume, row in its tensor, frame, slice
        if not self.data:
            raise DataError("data is empty: no volumes to cut into slices")
        hidden = not (progress and is_main_process())
        for number, item in enumerate(tqdm(self.data, desc="volumes", unit="file", disable=hidden, leave=False)):
            self._add(number, item, load_volume(item, volume_transform, self.keys), drop_blank)
        if not self._index:
            raise DataError(f"all slices of all {len(self.data)} volumes are blank (first: {self._source(0)})")

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> dict[str, Any]:
        position = range(len(self))[index]
        volume, row, frame, level = self._index[position]
        item: dict[str, Any] = {key: self._slices[key][volume][row].clone() for key in self.keys}
        item |= {name: str(self.data[volume].get(name, "")) for name in ("patient", "phase", "group")}
        item |= {"index": position, "source": self._source(volume), "slice": level, "frame": frame}
        if self.transform is None:
            return item
        if isinstance(self.transform, Randomizable):
            self.transform.set_random_state(seed=derive_seed(self.seed, "augment", self.epoch, position))
        item = dict(self.transform(item))
        return {key: _plain(value) for key, value in item.items()}

    @property
    def epoch(self) -> int:
        """The epoch that the augmentation is keyed by."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Key the augmentation by another epoch; call before the epoch's first batch is drawn."""
        self._epoch.fill_(epoch)

    def images(self) -> torch.Tensor:
        """Return all slices without augmentation, (N, 1, H, W) float32."""
        return torch.cat(self._slices[self.keys[0]])

    def _source(self, volume: int) -> str:
        return str(self.data[volume].get(self.keys[0], ""))

    def _add(self, number: int, item: Mapping[str, Any], loaded: Mapping[str, Any], drop_blank: bool) -> None:
        """Cut one loaded volume and file its slices."""
        image_key = self.keys[0]
        image = self._chosen_frames(item, image_key, _plain(loaded[image_key]))
        frames = image.shape[0]
        stacks = {image_key: self._cut(item, image_key, image)}
        for key in self.keys[1:]:
            stacks[key] = self._cut(item, key, self._chosen_frames(item, key, _plain(loaded[key])))
            if stacks[key].shape != stacks[image_key].shape:
                raise DataError(
                    f"file {item[key]} (key {key!r}): gives {len(stacks[key])} slices of {tuple(stacks[key].shape[2:])}"
                    f", its image gives {len(stacks[image_key])} of {tuple(stacks[image_key].shape[2:])}"
                )
        self._check_size(item, stacks[image_key])
        flat = stacks[image_key].flatten(1)
        kept = flat.amin(1) != flat.amax(1) if drop_blank else torch.ones(len(flat), dtype=torch.bool)
        levels = len(flat) // frames
        first = item.get("frame") if frames == 1 and item.get("frame") is not None else 1
        for row, old in enumerate(kept.nonzero().flatten().tolist()):
            self._index.append((number, row, int(first) + old // levels, old % levels))
        for key, stack in stacks.items():
            self._slices[key].append(stack if bool(kept.all()) else stack[kept].contiguous())

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

    def _check_size(self, item: Mapping[str, Any], stack: torch.Tensor) -> None:
        earlier = self._slices[self.keys[0]]
        if earlier and earlier[0].shape[1:] != stack.shape[1:]:
            raise DataError(
                f"file {item[self.keys[0]]} (key {self.keys[0]!r}): slices of {tuple(stack.shape[2:])}, those of the"
                f" files before it are {tuple(earlier[0].shape[2:])}; resize in volume_transform"
            )


def _plain(value: Any) -> Any:
    return value.as_tensor() if isinstance(value, MetaTensor) else value
