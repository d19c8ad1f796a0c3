"""Load end diastole, end systole, their labels and the frames between them, all on one grid."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from typing import Any

import nibabel as nib
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImage, Transform

from monai_mamba_gen.utils.errors import DataError, root_cause

from .check_volume import CheckVolumed

__all__ = ["LoadCined", "frames_between", "read_timing"]

_LABELS = {"label": "ed_frame", "target_label": "es_frame"}
_SPACING_TOLERANCE = 0.01
_SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6, "unknown": 1.0}
_CYCLE = (0.2, 3.0)


class LoadCined(Transform):
    """
    Load a patient's end-diastolic (ED) and end-systolic (ES) volume, and the frames between them where asked for.

    ``image`` (ED), ``target`` (ES), ``label`` and ``target_label`` go from paths to MetaTensors (1, H, W, D). A file of
    several frames yields the one that ``ed_frame`` or ``es_frame`` names (1-based); without ``image``, ED and ES come
    from ``series``. Axes stay as they are in the file, (X, Y, Z). All volumes get the affine of ED, since the headers
    of one patient's files differ slightly in practice; spacing that differs by more than 1 % is an error.

    A 4D file as ``image`` without a ``target`` is a whole cine: ED is its ``ed_frame`` (default: the first), ES is the
    item's ``es_frame``, or else the argument of that name, or else the frame with the largest mean absolute difference
    from ED.

    Systole runs forwards in time, so that the frames between wrap round the end of the cycle where ES comes before ED.
    They become ``frames``, a MetaTensor (F, H, W, D), and ``phases``, float32 (F,), their share of the way from ED (0)
    to ES (1) in time. Both keys are absent where there are no such frames. ``ed_frame`` and ``es_frame`` are added
    where the file tells; ``num_frames`` (of the whole cycle) and ``seconds_per_frame`` are always set, 0 where unknown.

    Args:
        num_frames: "none"; "all" for every frame strictly between ED and ES, where there is a series; or how many of
            them, evenly chosen, as batches of several patients need.
        es_frame: the frame (1-based) of ES for a 4D ``image`` without ``target``; None: the one the least like ED.
        allow_missing_keys: whether a 3D ``image`` may come without a ``target``, as for generation. Labels may always
            be missing.

    Raises:
        DataError: at call, one line with file and key: unreadable, NaN, constant, other shape or spacing than ED,
            spacing not above 0, ES identical to ED, a frame that the file does not have, too few frames.
        ValueError: when an argument is outside what is allowed.

    Example:
        >>> import numpy as np, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "cine.nii")
        >>> nib.save(nib.Nifti1Image(np.random.rand(8, 8, 3, 5).astype("float32"), np.eye(4)), path)
        >>> item = LoadCined("all", es_frame=4)({"image": path})
        >>> item["target"].shape, item["frames"].shape, item["phases"]
        (torch.Size([1, 8, 8, 3]), torch.Size([2, 8, 8, 3]), tensor([0.3333, 0.6667]))
    """

    def __init__(self, num_frames: str | int = "none", es_frame: int | None = None, allow_missing_keys: bool = False):
        is_number = isinstance(num_frames, int) and not isinstance(num_frames, bool)
        if num_frames not in ("none", "all") and not (is_number and num_frames >= 0):
            raise ValueError(f"num_frames must be 'none', 'all' or a whole number from 0 on, got {num_frames!r}")
        if es_frame is not None and (not isinstance(es_frame, int) or es_frame < 1):
            raise ValueError(f"es_frame must be None or a frame number from 1 on, got {es_frame!r}")
        self.num_frames = "none" if num_frames == 0 else num_frames
        self.es_frame = es_frame
        self.allow_missing_keys = allow_missing_keys

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with its paths loaded."""
        item = dict(data)
        reader = _Reader()
        series = next((os.fspath(item[key]) for key in ("series", "image") if _is_path(item.get(key))), None)
        volumes = self._pair(item, reader)
        for key, frame_key in _LABELS.items():
            if item.get(key) is not None and not (key == "target_label" and "target" not in volumes):
                volumes[key] = reader.frame(item[key], key, item.get(frame_key))
        _check(volumes)
        chosen = self._between(item, series, reader, volumes)
        if chosen:
            volumes["frames"], item["phases"] = chosen
        for key, volume in volumes.items():
            item[key] = _on_grid_of(volumes["image"], volume)
        count, seconds = _timing(series)
        item["num_frames"] = count if count > 1 else 0
        item["seconds_per_frame"] = float(item.get("seconds_per_frame") or seconds or 0.0)
        return item

    def _pair(self, item: dict, reader: _Reader) -> dict[str, MetaTensor]:
        """Load ED, and ES where there is one; note their frame numbers in ``item``."""
        key = "image" if _is_path(item.get("image")) else "series"
        path = item.get(key)
        if not _is_path(path):
            raise DataError(f"{_name(item)}: has neither 'image' nor 'series', the path of a file")
        whole = reader.whole(path, key)
        is_cine = whole.shape[0] > 1
        if is_cine:
            item.setdefault("ed_frame", 1)
        volumes = {"image": reader.frame(path, key, item.get("ed_frame"))}
        if _is_path(item.get("target")):
            target, target_key = item["target"], "target"
        elif is_cine:
            target, target_key = path, key
            item["es_frame"] = item.get("es_frame") or self.es_frame or _least_like(whole, item["ed_frame"])
        elif self.allow_missing_keys:
            return volumes
        else:
            raise DataError(f"file {path} (key {key!r}): has 1 frame, and there is no 'target' for end systole")
        if item.get("es_frame") is not None and item.get("ed_frame") == item.get("es_frame"):
            raise DataError(f"file {target} (key {target_key!r}): ED and ES are both frame {item['es_frame']}")
        volumes["target"] = reader.frame(target, target_key, item.get("es_frame"))
        return volumes

    def _between(
        self, item: dict, path: str, reader: _Reader, volumes: dict[str, MetaTensor]
    ) -> tuple[MetaTensor, torch.Tensor] | None:
        """Cut the chosen frames out of the series at ``path``; None where there are none."""
        if self.num_frames == "none" or "target" not in volumes:
            return None
        series, needed = reader.whole(path, "series"), self.num_frames != "all"
        if series.shape[0] == 1 and _is_path(item.get("series")):
            raise DataError(f"file {path} (key 'series'): has 1 frame, a cine needs at least 2")
        ends = item.get("ed_frame"), item.get("es_frame")
        if None in ends or series.shape[0] == 1:
            if needed:
                raise DataError(f"{_name(item)}: has no 4D series, num_frames={self.num_frames} needs one")
            return None
        for number in ends:
            _check_frame(path, "series", series, number)
        numbers, phases = frames_between(*ends, series.shape[0])
        if needed and len(numbers) < self.num_frames:
            raise DataError(
                f"{_name(item)}: has {len(numbers)} frames between ED (frame {ends[0]}) and ES (frame {ends[1]}) in "
                f"{path}, num_frames={self.num_frames} needs more"
            )
        if not numbers:
            return None
        rows = _evenly(len(numbers), self.num_frames) if needed else list(range(len(numbers)))
        for row in rows:
            CheckVolumed("series", allowed_ndim=3)({"series": series[numbers[row] - 1 : numbers[row]]})
        frames = series[[numbers[row] - 1 for row in rows]]
        _check_like(volumes["image"], frames, "series")
        return frames, torch.tensor([phases[row] for row in rows], dtype=torch.float32)


def frames_between(ed_frame: int, es_frame: int, num_frames: int) -> tuple[list[int], list[float]]:
    """
    List the frames strictly between ED and ES, forwards in time, and their phases.

    Args:
        ed_frame: 1-based.
        es_frame: 1-based; before ``ed_frame`` where systole runs over the end of the cycle.
        num_frames: frames in the cycle.

    Returns:
        1-based frame numbers, and phases in (0, 1).

    Example:
        >>> frames_between(4, 2, 5)
        ([5, 1], [0.3333333333333333, 0.6666666666666666])
    """
    steps = (es_frame - ed_frame) % num_frames
    numbers = [(ed_frame - 1 + step) % num_frames + 1 for step in range(1, steps)]
    return numbers, [step / steps for step in range(1, steps)]


def read_timing(path: str | os.PathLike[str]) -> tuple[int, float | None]:
    """
    Read a NIfTI header's number of frames and seconds per frame.

    Returns:
        Frames (1 for a 3D file); seconds, None where the header holds none or a cycle would not last 0.2 to 3 s.

    Raises:
        DataError: when the header cannot be read.
    """
    try:
        header = nib.load(path).header
        shape, zooms, unit = header.get_data_shape(), header.get_zooms(), header.get_xyzt_units()[1]
    except Exception as error:
        raise DataError(f"file {path} (key 'series'): cannot be read: {_one_line(error)}") from error
    count = int(shape[3]) if len(shape) > 3 else 1
    # Through text, as the header's float32 0.0375 would become 0.03750000149
    seconds = float(str(zooms[3])) * _SECONDS.get(unit, 0.0) if count > 1 else 0.0
    return count, seconds if _CYCLE[0] <= seconds * count <= _CYCLE[1] else None


class _Reader:
    """Reads each file once a call."""

    def __init__(self) -> None:
        self._read: dict[str, MetaTensor] = {}

    def whole(self, path: Any, key: str) -> MetaTensor:
        """Return (F, X, Y, Z), time as channel."""
        name = os.fspath(path)
        if name not in self._read:
            try:
                self._read[name] = LoadImage(image_only=True, ensure_channel_first=True, dtype=torch.float32)(name)
            except Exception as error:
                reason = _one_line(root_cause(error)) if os.path.isfile(name) else "no such file"
                raise DataError(f"file {name} (key {key!r}): cannot be read: {reason}") from error
        return self._read[name]

    def frame(self, path: Any, key: str, number: int | None) -> MetaTensor:
        """Return one frame, (1, X, Y, Z)."""
        whole = self.whole(path, key)
        if whole.shape[0] == 1:
            return whole
        if number is None:
            raise DataError(f"file {path} (key {key!r}): has {whole.shape[0]} frames, and no frame number is given")
        _check_frame(path, key, whole, number)
        return whole[number - 1 : number]


def _check(volumes: dict[str, MetaTensor]) -> None:
    CheckVolumed(list(volumes), allowed_ndim=3, allow_constant=[key in _LABELS for key in volumes])(volumes)
    image = volumes["image"]
    for key, volume in volumes.items():
        _check_like(image, volume, key)
    if "target" in volumes and torch.equal(image.as_tensor(), volumes["target"].as_tensor()):
        raise DataError(f"file {_source(volumes['target'])} (key 'target'): ES is identical to ED, {_source(image)}")


def _check_like(image: MetaTensor, other: MetaTensor, key: str) -> None:
    if image.shape[1:] != other.shape[1:]:
        raise DataError(
            f"file {_source(other)} (key {key!r}): shape {tuple(other.shape[1:])}, that of ED is "
            f"{tuple(image.shape[1:])} ({_source(image)})"
        )
    ours, theirs = (torch.linalg.vector_norm(each.affine[:3, :3].double(), dim=0) for each in (image, other))
    if bool(((theirs / ours - 1).abs() > _SPACING_TOLERANCE).any()):
        texts = [tuple(round(size, 4) for size in each.tolist()) for each in (theirs, ours)]
        raise DataError(f"file {_source(other)} (key {key!r}): spacing {texts[0]} mm, that of ED is {texts[1]} mm")


def _check_frame(path: Any, key: str, whole: torch.Tensor, number: int) -> None:
    if not 1 <= number <= whole.shape[0]:
        raise DataError(f"file {path} (key {key!r}): has {whole.shape[0]} frames, frame {number} is asked for")


def _on_grid_of(image: MetaTensor, volume: MetaTensor) -> MetaTensor:
    """Return ``volume`` with ED's affine, as float32."""
    meta = {**volume.meta, "affine": image.affine.clone(), "original_affine": image.meta["original_affine"]}
    return MetaTensor(volume.as_tensor().to(torch.float32).contiguous(), meta=meta)


def _least_like(whole: torch.Tensor, ed_frame: int) -> int:
    """Return the frame (1-based) with the largest mean absolute difference from ED."""
    if not 1 <= ed_frame <= whole.shape[0]:
        return ed_frame % whole.shape[0] + 1
    series = torch.as_tensor(whole)
    return 1 + int((series - series[ed_frame - 1]).abs().flatten(1).mean(1).argmax())


def _evenly(available: int, wanted: int) -> list[int]:
    """Choose 0-based rows whose phases are the nearest to ``wanted`` even ones."""
    return [int(number * (available + 1) / (wanted + 1) + 0.5) - 1 for number in range(1, wanted + 1)]


def _timing(path: str) -> tuple[int, float | None]:
    try:
        return read_timing(path)
    except DataError:
        return 1, None  # not a NIfTI, which LoadImage may read all the same


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike)) and bool(os.fspath(value))


def _name(item: Mapping) -> str:
    return f"patient {item['patient']}" if item.get("patient") else f"item {item.get('image', dict(item))}"


def _source(volume: MetaTensor) -> str:
    return str(volume.meta.get("filename_or_obj", "in memory"))


def _one_line(error: BaseException) -> str:
    return f"{' '.join(str(error).split())[:300]} ({type(error).__name__})"
