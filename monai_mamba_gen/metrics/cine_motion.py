"""What a displacement field does to the heart: overlap of warped labels, volumes, ejection fraction, folding."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from monai.metrics import compute_dice

__all__ = [
    "ACDC_STRUCTURES",
    "dice_scores",
    "ejection_fraction",
    "jacobian_determinant",
    "non_positive_jacobian",
    "structure_volumes",
]

ACDC_STRUCTURES: Mapping[str, int] = {"RV": 1, "Myo": 2, "LV": 3}
"""Labels of ACDC: right ventricular cavity, left ventricular myocardium, left ventricular cavity."""


def dice_scores(
    pred_label: torch.Tensor, true_label: torch.Tensor, structures: Mapping[str, int] = ACDC_STRUCTURES
) -> dict[str, float | None]:
    """
    Return the Dice score of each structure.

    Args:
        pred_label: whole numbers, any shape.
        true_label: whole numbers, the same shape.
        structures: name and label of each structure.

    Returns:
        Dice in [0, 1] by name; None where the true label does not have the structure, as if it had not been drawn.

    Raises:
        ValueError: when the shapes differ.

    Example:
        >>> dice_scores(torch.tensor([3, 3, 0]), torch.tensor([3, 0, 0]), {"Myo": 2, "LV": 3})["Myo"] is None
        True
    """
    if pred_label.shape != true_label.shape:
        raise ValueError(f"labels must have one shape, got {tuple(pred_label.shape)} and {tuple(true_label.shape)}")
    pred, true = (
        torch.stack([(label == value).flatten() for value in structures.values()])[None]
        for label in (pred_label, true_label)
    )
    values = compute_dice(pred, true, include_background=True, ignore_empty=True)[0].tolist()
    return {name: None if math.isnan(value) else value for name, value in zip(structures, values, strict=True)}


def structure_volumes(
    label: torch.Tensor, voxel_volume: float = 1.0, structures: Mapping[str, int] = ACDC_STRUCTURES
) -> dict[str, float]:
    """
    Return the volume of each structure.

    Args:
        label: whole numbers, any shape.
        voxel_volume: volume of a voxel in the wanted unit, such as ml.
        structures: name and label of each structure.

    Example:
        >>> structure_volumes(torch.tensor([3, 3, 0]), 0.5)
        {'RV': 0.0, 'Myo': 0.0, 'LV': 1.0}
    """
    return {name: int((label == value).sum()) * float(voxel_volume) for name, value in structures.items()}


def ejection_fraction(ed_label: torch.Tensor, es_label: torch.Tensor, structure: int = 3) -> float | None:
    """
    Return the share of the end-diastolic volume that is pumped out: (EDV - ESV) / EDV.

    The volume of a voxel cancels, as both labels are on one grid.

    Args:
        ed_label: whole numbers at end diastole, any shape.
        es_label: whole numbers at end systole, the same shape.
        structure: label of the cavity; 3 is ACDC's left ventricle.

    Returns:
        A fraction, at most 1 and below 0 where the cavity grows; None where ``ed_label`` does not have it. An
        ``es_label`` without it gives 1: only the caller knows whether it is empty or was not drawn.

    Raises:
        ValueError: when the shapes differ.

    Example:
        >>> ejection_fraction(torch.tensor([3, 3, 3, 3]), torch.tensor([0, 3, 2, 0]))
        0.75
    """
    if ed_label.shape != es_label.shape:
        raise ValueError(f"labels must have one shape, got {tuple(ed_label.shape)} and {tuple(es_label.shape)}")
    before, after = (int((label == structure).sum()) for label in (ed_label, es_label))
    return (before - after) / before if before else None


def jacobian_determinant(displacement: torch.Tensor) -> torch.Tensor:
    """
    Return the determinant of the derivative of x + u(x): the local change in volume.

    Derivatives are central differences, one-sided at the border, 0 along an axis of one voxel. Central differences do
    not see folds that alternate from voxel to voxel.

    Args:
        displacement: (3, H, W, D) in voxels.

    Returns:
        (H, W, D); 1 keeps volume, 0 or below is a fold.

    Raises:
        ValueError: when the shape is another one.

    Example:
        >>> jacobian_determinant(torch.zeros(3, 4, 4, 2)).unique()
        tensor([1.])
    """
    if displacement.ndim != 4 or displacement.shape[0] != 3:
        raise ValueError(f"displacement must be (3, H, W, D), got {tuple(displacement.shape)}")
    displacement = displacement.detach()
    displacement = displacement if displacement.dtype == torch.float64 else displacement.float()
    columns = [
        torch.gradient(displacement, dim=axis)[0] if displacement.shape[axis] > 1 else torch.zeros_like(displacement)
        for axis in (1, 2, 3)
    ]
    (a, b, c), (d, e, f), (g, h, i) = torch.stack(columns, dim=1)
    a, e, i = a + 1, e + 1, i + 1
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def non_positive_jacobian(displacement: torch.Tensor) -> float:
    """
    Return the share of voxels at which the map x + u(x) folds: where `jacobian_determinant` is 0 or below.

    Args:
        displacement: (3, H, W, D) in voxels.

    Example:
        >>> non_positive_jacobian(torch.zeros(3, 4, 4, 4))
        0.0
    """
    return float((jacobian_determinant(displacement) <= 0).double().mean())
