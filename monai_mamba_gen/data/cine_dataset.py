"""Patients of a cine data set, preprocessed once and kept in memory."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.transforms import Randomizable
from torch.utils.data import Dataset
from tqdm import tqdm

from monai_mamba_gen.utils.distributed import is_main_process
from monai_mamba_gen.utils.errors import DataError
from monai_mamba_gen.utils.plain_tensor import plain_tensor
from monai_mamba_gen.utils.seeding import derive_seed

from .reading import load_volume

__all__ = ["CineDataset"]

_PATHS = ("image", "target", "label", "target_label", "series")
_OPTIONAL = ("label", "target_label", "frames", "phases")
_NAMES = {"patient": "", "group": "", "ed_frame": 0, "es_frame": 0, "num_frames": 0, "seconds_per_frame": 0.0}


class CineDataset(Dataset):
    """
    One item a patient: end diastole, end systole, and labels and true frames where there are any.

    Every patient goes once, at construction, through ``preprocessing``, so that a bad file is named before the first
    epoch; with ``cache`` the result stays in memory.

    ``transform`` draws its random numbers from the key (seed, epoch, index), so an augmented patient is the same with
    any number of workers or processes and in any order. `set_epoch` reaches persistent workers too. Give it all keys
    and ``allow_missing_keys=True``, so that volumes, frames and labels are changed alike:
    ``RandFlipd(["image", "target", "frames", "label", "target_label"], 0.5, 0, allow_missing_keys=True)``.

    Args:
        data: one dict per patient, as of `acdc_cine_datalist`; kept as ``.data``.
        preprocessing: from paths to volumes of one size, for example a ``Compose`` of `LoadCined`, ``Spacingd``,
            `HeartCropd` and `ScaleIntensityJointlyd`.
        transform: applied to every item when it is taken.
        seed: seed of ``transform``.
        cache: whether preprocessed patients are kept in memory; else each is preprocessed again when it is taken.
        keep_meta: True for inference and evaluation, one patient at a time: MetaTensors with their affine, and all
            keys. False for training: plain tensors that collate; a label or frames that some patients lack are left
            out for all, with a warning, and all volumes must have one shape.
        progress: whether to show a progress bar (main process only).

    Raises:
        DataError: when ``data`` is empty, a patient cannot be preprocessed, or shapes disagree; names file and key.

    Items are dicts: ``image`` and ``target`` float32 (1, H, W, D); where there are any ``label``, ``target_label``
    (1, H, W, D), ``frames`` (F, H, W, D) and ``phases`` (F,); ``index``, ``patient``, ``group``, ``ed_frame``,
    ``es_frame``, ``num_frames`` (of the cycle), ``seconds_per_frame`` (each 0 where unknown) and ``source`` (file
    of ED). ``target`` may be missing with ``keep_meta``.

    Example:
        >>> def load(item):
        ...     return {"image": torch.rand(1, 8, 8, 4), "target": torch.rand(1, 8, 8, 4)}
        >>> dataset = CineDataset([{"image": "a.nii.gz", "target": "b.nii.gz", "patient": "a"}], load, progress=False)
        >>> len(dataset), dataset[0]["target"].shape, dataset[0]["patient"]
        (1, torch.Size([1, 8, 8, 4]), 'a')
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        preprocessing: Callable[[dict[str, Any]], Any],
        transform: Callable[[dict[str, Any]], Any] | None = None,
        seed: int = 0,
        cache: bool = True,
        keep_meta: bool = False,
        progress: bool = True,
    ) -> None:
        self.data = list(data)
        self.preprocessing = preprocessing
        self.transform = transform
        self.seed = seed
        self.cache = cache
        self.keep_meta = keep_meta
        # Shared memory, as a persistent worker would never see a plain attribute change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._items: list[dict[str, Any]] = []
        self._left_out: set[str] = set()
        if not self.data:
            raise DataError("data is empty: no patients")
        self._preflight(progress)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        position = range(len(self))[index]
        stored = self._items[position] if self.cache else self._prepare(position)
        item = {
            key: value.clone() if isinstance(value, torch.Tensor) else value
            for key, value in stored.items()
            if key not in self._left_out
        }
        if self.transform is not None:
            if isinstance(self.transform, Randomizable):
                self.transform.set_random_state(seed=derive_seed(self.seed, "augment", self.epoch, position))
            item = dict(self.transform(item))
        return item if self.keep_meta else {key: plain_tensor(value) for key, value in item.items()}

    @property
    def epoch(self) -> int:
        """The epoch that the augmentation is keyed by."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Key the augmentation by another epoch; call before the epoch's first batch is drawn."""
        self._epoch.fill_(epoch)

    def _preflight(self, progress: bool) -> None:
        """Preprocess every patient once, and settle which keys all of them have."""
        hidden = not (progress and is_main_process())
        shapes: dict[str, dict[int, tuple[int, ...]]] = {}
        for position in tqdm(range(len(self)), desc="patients", unit="patient", disable=hidden, leave=False):
            item = self._prepare(position)
            for key, value in item.items():
                if isinstance(value, torch.Tensor):
                    shapes.setdefault(key, {})[position] = tuple(value.shape)
            if not self.keep_meta:
                self._check_shapes(position, item, shapes["image"][0])
            if self.cache:
                self._items.append(item if self.keep_meta else {key: _contiguous(item[key]) for key in item})
        if self.keep_meta:
            return
        for key in _OPTIONAL:
            if 0 < len(shapes.get(key, {})) < len(self):
                self._left_out.add(key)
                first = next(position for position in range(len(self)) if position not in shapes[key])
                warnings.warn(
                    f"{len(self) - len(shapes[key])} of {len(self)} patients have no {key!r} (first: "
                    f"{self._name(first)}): it is left out for all",
                    stacklevel=3,
                )

    def _prepare(self, position: int) -> dict[str, Any]:
        given = self.data[position]
        keys = [key for key in _PATHS if isinstance(given.get(key), (str, os.PathLike))]
        try:
            loaded = load_volume(given, self.preprocessing, keys or ("image",))
        except DataError as error:
            name = str(given.get("patient", ""))
            if name in str(error):
                raise
            raise DataError(f"patient {name}: {error}") from error
        item = {key: value for key, value in loaded.items() if isinstance(value, torch.Tensor)}
        for key, default in _NAMES.items():
            found = loaded.get(key, given.get(key))
            item[key] = type(default)(default if found is None else found)
        return item | {"index": position, "source": str(given.get("image", given.get("series", "")))}

    def _check_shapes(self, position: int, item: Mapping[str, Any], expected: tuple[int, ...]) -> None:
        for key, value in item.items():
            if not isinstance(value, torch.Tensor) or key == "phases":
                continue
            if tuple(value.shape[1:]) != expected[1:]:
                raise DataError(
                    f"patient {self._name(position)} (key {key!r}): volume of {tuple(value.shape[1:])} after "
                    f"preprocessing, the first patient's image is {expected[1:]}; crop in preprocessing"
                )
        if "target" not in item:
            raise DataError(f"patient {self._name(position)}: has no 'target' for end systole")

    def _name(self, position: int) -> str:
        return str(self.data[position].get("patient") or self.data[position].get("image", position))


def _contiguous(value: Any) -> Any:
    return value.contiguous() if isinstance(value, torch.Tensor) else value
