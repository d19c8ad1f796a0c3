"""The loss that diffusion and deformation are trained with together."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from monai.losses import LocalNormalizedCrossCorrelationLoss
from monai.losses.deform import DiffusionLoss
from torch import nn

__all__ = ["DeformableDiffusionLoss"]

# Windows whose summed variance is below this count as flat; MONAI's 1e-5 is less than rounding makes of bright ones.
_FLAT_WINDOW = 1e-3
_SMALLEST_GRADIENT_SIZE = 3


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else x.float()


class DeformableDiffusionLoss(nn.Module):
    """
    Diffusion error, similarity of the deformed volume, smoothness of the deformation; DDM's (Kim & Ye, MICCAI 2022).

    ``MSE(prediction) + similarity_weight * similarity + smoothness_weight * smoothness + frame_weight * frames
    + path_weight * path``. The last phase of the output is end systole, phase 1. The terms:

    - similarity: MONAI's ``LocalNormalizedCrossCorrelationLoss`` of the last frame and the ES volume, both mapped from
      [-1, 1] to [0, 1]: minus the squared correlation in a moving cube, -1 where they agree, 0 where they do not or
      where a cube is flat.
    - smoothness: MONAI's ``losses.deform.DiffusionLoss`` of the velocity at the last phase: squared central differences
      ``((v[i+1] - v[i-1]) / 2)**2`` in voxels, summed over the three axes, averaged over the three components and the
      voxels inside the border. So it is |grad v|^2 / 3, three times VoxelMorph's (which averages the axes) and blind
      to an oscillation of period two. With ``integration_steps=0`` the velocity is the displacement.
    - frames: mean squared error of the frames before the last against true ones, where the target has them.
    - path: mean squared deviation of ``v(p)`` from ``p * v(1)``: zero where the motion is one path run at even speed.

    Terms of weight 0, and terms that the output or the target has nothing for, are left out. float32 also under
    autocast.

    Args:
        similarity_weight: weight of the similarity; DDM's is 20.
        smoothness_weight: weight of the smoothness; DDM's is 20.
        kernel_size: side of the moving cube in voxels, odd; for smaller volumes the largest odd number that fits.
        frame_weight: weight of the frames between.
        path_weight: weight of the path.

    Raises:
        ValueError: when a weight is negative or ``kernel_size`` is even.

    Example:
        >>> loss = DeformableDiffusionLoss(similarity_weight=1.0)
        >>> volume = torch.rand(1, 1, 9, 9, 9) * 2 - 1
        >>> output = {"frames": volume, "velocity": torch.zeros(1, 1, 3, 9, 9, 9)}
        >>> round(loss(output, {"volume": volume}).item(), 3), sorted(loss.parts)
        (-1.0, ['loss', 'similarity', 'smoothness'])
    """

    def __init__(
        self,
        similarity_weight: float = 20.0,
        smoothness_weight: float = 20.0,
        kernel_size: int = 9,
        frame_weight: float = 0.0,
        path_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.weights = {
            "prediction": 1.0,
            "similarity": similarity_weight,
            "smoothness": smoothness_weight,
            "frames": frame_weight,
            "path": path_weight,
        }
        if negative := {name: weight for name, weight in self.weights.items() if weight < 0}:
            raise ValueError(f"weights must not be negative, got {negative}")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive, got {kernel_size}")
        self.kernel_size = kernel_size
        # MONAI indexes with lists of slices, which PyTorch reads as meant and warns of. Whether that stays is tested.
        warnings.filterwarnings("ignore", message="Using a non-tuple sequence", module=r"monai\.losses\.deform")
        self._smoothness = DiffusionLoss()
        self._parts: dict[str, torch.Tensor] = {}

    @property
    def parts(self) -> dict[str, float]:
        """The terms of the last call before weighting, by name, and the whole as ``"loss"``."""
        return {name: float(value) for name, value in self._parts.items()}

    def forward(self, output: Mapping[str, torch.Tensor], target: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """
        Return the weighted sum, a scalar.

        Args:
            output: what `DeformableDiffusion` returns: ``"frames"`` (N, P, H, W, D), ``"velocity"`` (N, P, 3, H, W, D),
                ``"phases"`` (N, P) (for the path only) and, where there is one, ``"prediction"`` (N, 1, H, W, D).
            target: ``"volume"``, ES, (N, 1, H, W, D) in [-1, 1]; ``"prediction"``, (N, 1, H, W, D), needed where the
                output has one; optionally ``"frames"``, (N, P - 1, H, W, D), true at all phases but the last;
                optionally ``"known"``, (N,) bool: samples whose ES volume the network was given. The motion of the
                others is not judged, as nothing could tell the network what it is; optionally ``"noisy"``, (N,)
                bool: samples whose prediction counts, as there is noise in them.

        Raises:
            ValueError: when shapes do not fit or a key is missing.
        """
        with torch.autocast(output["frames"].device.type, enabled=False):
            terms = self._terms(output, target)
            if not terms:
                raise ValueError("weights must not all be 0 where there is no prediction")
            loss = sum(self.weights[name] * value for name, value in terms.items())
        self._parts = {name: value.detach() for name, value in {**terms, "loss": loss}.items()}
        return loss

    def _terms(self, output: Mapping[str, torch.Tensor], target: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        terms = {}
        if output.get("prediction") is not None:
            terms["prediction"] = self._prediction_error(output["prediction"], target)
        known = target.get("known")
        if known is None or bool(known.all()):
            return terms | self._motion_terms(output, target)
        if not bool(known.any()):  # for distributed training every parameter needs a gradient, if only zero
            return terms | {"similarity": 0.0 * (output["frames"].sum() + output["velocity"].sum())}
        kept = [{key: value[known] for key, value in each.items()} for each in (output, target)]
        return terms | {name: known.float().mean() * value for name, value in self._motion_terms(*kept).items()}

    def _motion_terms(
        self, output: Mapping[str, torch.Tensor], target: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        frames, terms = output["frames"], {}
        if self.weights["similarity"]:
            terms["similarity"] = self._similarity(frames[:, -1:], target)
        if self.weights["smoothness"]:
            terms["smoothness"] = self._smoothness(self._at_least_three(_wide(output["velocity"][:, -1])))
        if frames.shape[1] > 1:
            if self.weights["frames"] and target.get("frames") is not None:
                terms["frames"] = self._mse(frames[:, :-1], target, "frames")
            if self.weights["path"]:
                terms["path"] = self._path(_wide(output["velocity"]), output["phases"])
        return terms

    @staticmethod
    def _checked(target: Mapping[str, torch.Tensor], key: str, shape: torch.Size) -> torch.Tensor:
        if target.get(key) is None:
            raise ValueError(f"target must have {key!r}, it has {sorted(target)}")
        if target[key].shape != shape:
            raise ValueError(f"target {key!r} must be {tuple(shape)}, got {tuple(target[key].shape)}")
        return target[key]

    def _mse(self, value: torch.Tensor, target: Mapping[str, torch.Tensor], key: str) -> torch.Tensor:
        truth = self._checked(target, key, value.shape)
        return F.mse_loss(_wide(value), _wide(truth))

    def _prediction_error(self, prediction: torch.Tensor, target: Mapping[str, torch.Tensor]) -> torch.Tensor:
        noisy = target.get("noisy")
        if noisy is None or bool(noisy.all()):
            return self._mse(prediction, target, "prediction")
        if not bool(noisy.any()):
            return 0.0 * prediction.sum()
        truth = self._checked(target, "prediction", prediction.shape)
        return noisy.float().mean() * F.mse_loss(_wide(prediction[noisy]), _wide(truth[noisy]))

    def _similarity(self, frame: torch.Tensor, target: Mapping[str, torch.Tensor]) -> torch.Tensor:
        volume = self._checked(target, "volume", frame.shape)
        smallest = min(frame.shape[2:])
        size = min(self.kernel_size, smallest - 1 + smallest % 2)
        correlation = LocalNormalizedCrossCorrelationLoss(spatial_dims=3, kernel_size=size, smooth_dr=_FLAT_WINDOW)
        return correlation((_wide(frame) + 1) / 2, (_wide(volume) + 1) / 2)

    @staticmethod
    def _at_least_three(field: torch.Tensor) -> torch.Tensor:
        """Repeat the border of axes that are too short for central differences."""
        missing = [max(_SMALLEST_GRADIENT_SIZE - size, 0) for size in field.shape[2:]]
        amounts = [amount for each in reversed(missing) for amount in (0, each)]
        return F.pad(field, amounts, mode="replicate") if any(missing) else field

    @staticmethod
    def _path(velocity: torch.Tensor, phases: torch.Tensor) -> torch.Tensor:
        scales = phases[:, :-1, None, None, None, None].to(velocity)
        return F.mse_loss(velocity[:, :-1], scales * velocity[:, -1:])
