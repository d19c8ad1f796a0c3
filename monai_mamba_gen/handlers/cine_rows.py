"""One generated cine as one row of figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from monai.data import decollate_batch

from ..metrics.cine_frames import frame_scores, temporal_smoothness
from ..metrics.cine_motion import dice_scores, ejection_fraction, non_positive_jacobian, structure_volumes
from ..networks.blocks.displacement import warp_frames
from ..utils.errors import DataError
from ..utils.plain_tensor import plain_tensor

__all__ = ["beat_row", "cine_items"]

_SAME_PHASE = 1e-6


def _plain(tensor: Any) -> torch.Tensor:
    return plain_tensor(torch.as_tensor(tensor)).detach()


def _text(value: Any) -> str:
    return str(value.item() if isinstance(value, torch.Tensor) else value)


def cine_items(batch: Any, result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """
    Give each sample of a batch, decollated or not, with what was generated for it under ``"generated"``.

    Raises:
        DataError: when their numbers differ, or nothing was generated.
    """
    if not result:
        raise DataError("the inferer has made nothing yet: is it the evaluator's own?")
    samples = decollate_batch(dict(batch)) if isinstance(batch, Mapping) else list(batch)
    phases = _plain(result["phases"])
    if len(samples) != len(result["frames"]):
        raise DataError(f"the batch has {len(samples)} samples, the inferer made {len(result['frames'])} cines")
    for index, sample in enumerate(samples):
        generated = {
            "frames": _plain(result["frames"])[index].float(),
            "displacement": _plain(result["displacement"])[index].float(),
            "phases": (phases[index] if phases.ndim == 2 else phases).double().tolist(),
            "mode": result["mode"],
        }
        yield {**sample, "generated": generated}


class _Sample:
    """Named access to one item, with errors that name the patient and the key."""

    def __init__(self, item: Mapping[str, Any]) -> None:
        self.item = item
        self.generated = item["generated"]
        self.device = self.generated["displacement"].device
        if item.get("patient") is None:
            raise DataError("the batch names no 'patient'")
        self.patient = _text(item["patient"])

    def error(self, message: str) -> DataError:
        return DataError(f"patient {self.patient}: {message}")

    def volume(self, key: str) -> torch.Tensor | None:
        """Return (C, H, W, D) on the grid of what was generated, or None where the key is missing."""
        value = self.item.get(key)
        if value is None:
            return None
        volume = _plain(value).to(self.device)
        shape = tuple(self.generated["frames"].shape[1:])
        if volume.ndim != 4 or tuple(volume.shape[1:]) != shape:
            raise self.error(f"{key!r} must be (C, *{shape}), got {tuple(volume.shape)}")
        if not torch.isfinite(volume).all():
            raise self.error(f"{key!r} holds NaN or infinite values")
        return volume.float()

    def label(self, key: str, required: bool) -> torch.Tensor | None:
        """Return (H, W, D) whole numbers."""
        label = self.volume(key)
        if label is None and required:
            raise self.error(f"no {key!r} in the batch (require_labels=False scores without labels)")
        if label is not None and not bool((label == label.round()).all()):
            raise self.error(f"{key!r} holds values that are no whole numbers")
        return None if label is None else label[0]

    def voxel_volume(self) -> tuple[float, str]:
        """Return the volume of a voxel in ml, or 1 voxel where the image has no geometry."""
        affine = getattr(self.item.get("image"), "affine", None)
        if affine is None or tuple(affine.shape) != (4, 4):
            return 1.0, "voxels"
        return abs(float(torch.linalg.det(affine[:3, :3].double()))) / 1000, "ml"

    def place(self, phase: float) -> int | None:
        """Return the place of the generated frame at a phase."""
        phases = self.generated["phases"]
        return next((index for index, other in enumerate(phases) if abs(other - phase) < _SAME_PHASE), None)

    def warped(self, label: torch.Tensor, place: int) -> torch.Tensor:
        field = self.generated["displacement"][place]
        return warp_frames(label[None, None], field[None, None], mode="nearest")[0, 0]


def beat_row(
    item: Mapping[str, Any],
    require_labels: bool,
    structures: Mapping[str, int],
    ejection_structure: str,
    data_range: float,
) -> tuple[dict[str, Any], list[str]]:
    """
    Score one cine.

    Args:
        item: what `cine_items` gives.
        require_labels, structures, ejection_structure, data_range: see `CineReportHandler`.

    Returns:
        The row, flat but for ``"frames"`` (a dictionary for each compared frame), and warnings.

    Raises:
        DataError: when something is missing, does not fit or is not finite.
    """
    sample, warnings = _Sample(item), []
    generated = sample.generated
    for key in ("frames", "displacement"):
        if not torch.isfinite(generated[key]).all():
            raise sample.error(f"the generated {key} hold NaN or infinite values")
    row: dict[str, Any] = {"patient": sample.patient}
    if generated["mode"] == "generation":
        if item.get("seed") is None:
            raise sample.error("no 'seed' in the batch, which tells one generated beat from another")
        row["seed"] = int(item["seed"])
    row["mode"] = generated["mode"]
    if item.get("group") is not None:
        row["group"] = _text(item["group"])
    last = max(range(len(generated["phases"])), key=generated["phases"].__getitem__)
    row["es_phase"] = generated["phases"][last]
    if row["mode"] == "interpolation":
        if abs(row["es_phase"] - 1) >= _SAME_PHASE:
            warnings.append(f"patient {sample.patient}: end systole is scored at phase {row['es_phase']:.4g}, not 1")
        row |= _frame_figures(sample, last, data_range, warnings)
    row |= _label_figures(sample, last, require_labels, structures, ejection_structure)
    row["non_positive_jacobian"] = non_positive_jacobian(generated["displacement"][last])
    row["temporal_smoothness"] = temporal_smoothness(generated["frames"])
    if row["mode"] == "interpolation":
        row["temporal_smoothness_true"] = _true_smoothness(sample)
    return row, warnings


def _true_frames(sample: _Sample) -> tuple[torch.Tensor | None, list[float]]:
    frames = sample.volume("frames")
    if frames is None:
        return None, []
    if sample.item.get("phases") is None:
        raise sample.error("'frames' without 'phases' in the batch")
    phases = _plain(sample.item["phases"]).double().flatten().tolist()
    if len(phases) != len(frames):
        raise sample.error(f"{len(frames)} 'frames' but {len(phases)} 'phases'")
    return frames, phases


def _frame_figures(sample: _Sample, last: int, data_range: float, warnings: list[str]) -> dict[str, Any]:
    """Compare generated frames with the true ones at their phases, and the last with the ES volume."""
    frames, phases = _true_frames(sample)
    pairs = [(index, place) for index, phase in enumerate(phases) if (place := sample.place(phase)) is not None]
    if len(pairs) < len(phases):
        missing = len(phases) - len(pairs)
        warnings.append(
            f"patient {sample.patient}: {missing} of {len(phases)} true frames have no generated frame at their phase"
        )
    names = ("psnr", "nmse", "ssim")
    scores: dict[str, list[float | None]] = {name: [] for name in names}
    if frames is not None and pairs:
        true, made = (list(column) for column in zip(*pairs, strict=True))
        scores = frame_scores(sample.generated["frames"][made], frames[true], data_range)
    figures: dict[str, Any] = {name: _mean(scores[name]) for name in names}
    figures |= {"true_frames": len(phases), "compared_frames": len(pairs)}
    target = sample.volume("target")
    end = {name: [None] for name in names}
    if target is not None and sample.place(1.0) is not None:
        end = frame_scores(sample.generated["frames"][last : last + 1], target[:1], data_range)
    figures |= {f"es_{name}": end[name][0] for name in names}
    figures["frames"] = [
        {"phase": phases[index]} | {name: scores[name][number] for name in names}
        for number, (index, _) in enumerate(pairs)
    ]
    return figures


def _true_smoothness(sample: _Sample) -> float | None:
    """Return the temporal smoothness of ED, true frames and ES."""
    frames, phases = _true_frames(sample)
    image, target = sample.volume("image"), sample.volume("target")
    if frames is None or image is None or target is None:
        return None
    order = sorted(range(len(phases)), key=phases.__getitem__)
    return temporal_smoothness(torch.cat([image[:1], frames[order], target[:1]]))


def _label_figures(
    sample: _Sample, last: int, require_labels: bool, structures: Mapping[str, int], ejection_structure: str
) -> dict[str, Any]:
    """Warp the ED label to end systole and compare overlap, volumes and ejection fraction with the ES label's."""
    interpolated = sample.generated["mode"] == "interpolation"
    label = sample.label("label", require_labels)
    target = sample.label("target_label", require_labels and interpolated)
    voxel_volume, unit = sample.voxel_volume()
    absent: dict[str, float | None] = dict.fromkeys(structures)
    dice = before = absent
    volumes = {"ed": absent, "es": absent, "es_true": absent}
    kept = ef_true = ef_predicted = None
    if label is not None:
        drawn = structure_volumes(label, voxel_volume, structures)
        warped = sample.warped(label, last)
        volumes["ed"] = {name: value or None for name, value in drawn.items()}
        volumes["es"] = {
            name: value if drawn[name] else None
            for name, value in structure_volumes(warped, voxel_volume, structures).items()
        }
        ef_predicted = ejection_fraction(label, warped, structures[ejection_structure])
        if (first := sample.place(0.0)) is not None:
            kept = _mean(dice_scores(sample.warped(label, first), label, structures).values())
    if label is not None and target is not None:
        if interpolated:
            dice, before = dice_scores(warped, target, structures), dice_scores(label, target, structures)
        volumes["es_true"] = {
            name: value or None for name, value in structure_volumes(target, voxel_volume, structures).items()
        }
        if volumes["es_true"][ejection_structure] is not None:
            ef_true = ejection_fraction(label, target, structures[ejection_structure])
    figures: dict[str, Any] = {}
    if interpolated:
        figures |= {f"dice_{name}": value for name, value in dice.items()} | {"dice_mean": _mean(dice.values())}
        figures |= {f"dice_before_{name}": value for name, value in before.items()}
        figures["dice_before_mean"] = _mean(before.values())
    figures |= {"dice_phase_0": kept, "ef_true": ef_true, "ef_predicted": ef_predicted}
    if interpolated:
        known = ef_true is not None and ef_predicted is not None
        figures["ef_error_points"] = 100 * abs(ef_predicted - ef_true) if known else None
    for moment, values in volumes.items():
        figures |= {f"volume_{moment}_{name}": value for name, value in values.items()}
    return figures | {"volume_unit": unit}


def _mean(values: Any) -> float | None:
    """Return the mean of the finite numbers, None where there is none."""
    numbers = [value for value in values if value is not None and math.isfinite(value)]
    return math.fsum(numbers) / len(numbers) if numbers else None
