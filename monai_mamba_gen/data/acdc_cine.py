"""The list of patients of a data set in ACDC's official layout: end diastole, end systole and the series between."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from monai_mamba_gen.transforms.load_cine import read_timing
from monai_mamba_gen.utils.errors import DataError

from .acdc import _volume_file, acdc_datalist

__all__ = ["acdc_cine_datalist"]


def acdc_cine_datalist(
    dataset_dir: str | os.PathLike[str],
    split: str = "training",
    val_fraction: float = 0.1,
    seed: int = 0,
    section: str = "training",
    require_labels: bool = False,
) -> list[dict[str, Any]]:
    """
    List the patients of an ACDC download, or of any folder of patients laid out like it, one dict each.

    Layout, arguments and split are those of `acdc_datalist`: the same patients are held out for the same ``seed``.

    Args:
        dataset_dir: the download's folder.
        split: "training", "validation" or "all"; the first two never share a patient.
        val_fraction: share of the patients in the validation split, above 0 and below 1.
        seed: seed of the split.
        section: the download's sub-folder, "training" or "testing".
        require_labels: whether a missing label is an error.

    Returns:
        Per patient: ``image`` and ``target`` (paths of ED and ES; that of the series where a frame has no file of its
        own), ``label`` and ``target_label`` (paths) where they are there, ``series`` (path) where there is a 4D file,
        ``patient``, ``group`` ("" where Info.cfg names none), ``ed_frame`` and ``es_frame`` (1-based) and
        ``seconds_per_frame`` (None where the series' header does not tell). `LoadCined` loads it.

    Raises:
        DataError: naming the file, folder or argument that is missing or wrong: those of `acdc_datalist`, ED and ES the
            same frame, a series of one frame or without the frames of ED and ES, a missing label that is required.

    Example:
        >>> from monai_mamba_gen.data import write_acdc_phantom
        >>> import tempfile
        >>> root = write_acdc_phantom(tempfile.mkdtemp(), num_patients=2, num_frames=3, shape=(32, 32, 2))
        >>> [(item["patient"], item["ed_frame"], item["es_frame"]) for item in acdc_cine_datalist(root, split="all")]
        [('patient001', 1, 2), ('patient002', 1, 2)]
    """
    frames = acdc_datalist(dataset_dir, split, "ed_es", val_fraction, seed, section)
    return [_patient(ed, es, require_labels) for ed, es in zip(frames[::2], frames[1::2])]


def _patient(ed: dict[str, Any], es: dict[str, Any], require_labels: bool) -> dict[str, Any]:
    folder = Path(ed["image"]).parent
    if ed["frame"] == es["frame"]:
        raise DataError(f"{folder / 'Info.cfg'}: ED and ES are both frame {ed['frame']}, two different ones are needed")
    item: dict[str, Any] = {"image": ed["image"], "target": es["image"]}
    for key, source in (("label", ed), ("target_label", es)):
        if "label" in source:
            item[key] = source["label"]
        elif require_labels:
            missing = folder / f"{folder.name}_frame{source['frame']:02d}_gt.nii.gz"
            raise DataError(f"{missing} (key {key!r}): is missing, the label of {source['phase']} is required")
    seconds = None
    series = _volume_file(folder, "4d")
    if series is not None:
        item["series"] = str(series)
        count, seconds = read_timing(series)
        if count < 2:
            raise DataError(f"file {series} (key 'series'): has 1 frame, a cine needs at least 2")
        for source in (ed, es):
            if source["frame"] > count:
                raise DataError(
                    f"file {series} (key 'series'): has {count} frames, Info.cfg names frame {source['frame']} as "
                    f"{source['phase']}"
                )
    item |= {"patient": ed["patient"], "group": ed["group"], "ed_frame": ed["frame"], "es_frame": es["frame"]}
    return item | {"seconds_per_frame": seconds}
