"""Noise and timesteps that depend on the step and the place in the global batch, not on the process that draws them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.engines import DiffusionPrepareBatch
from monai.networks.schedulers import Scheduler
from monai.networks.schedulers.ddpm import DDPMPredictionType

from ..utils.distributed import get_rank, get_world_size
from ..utils.plain_tensor import plain_tensor
from ..utils.seeding import keyed_generator, per_sample_randn

__all__ = ["SeededDiffusionPrepareBatch"]

_GOLDEN_RATIO = 0.6180339887498949
_NO_CONDITION = -1  # MONAI's DiffusionInferer fills the unconditioned half of guidance with this value


class SeededDiffusionPrepareBatch(DiffusionPrepareBatch):
    """
    Draw the noise and timesteps of a diffusion batch from streams keyed by ``(seed, step, row of the global batch)``.

    Row ``i`` of a process is row ``rank + i * world_size`` of the global batch, which is how
    ``torch.utils.data.DistributedSampler`` deals samples. So two processes with half the batch each see together
    what one process sees, and a resumed training sees what the uninterrupted one would have seen.

    Args:
        num_train_timesteps: timesteps are drawn from ``[0, num_train_timesteps)``.
        condition_name: key of the condition in the batch, such as class labels (N,); passed on as ``condition``.
        seed: names the streams.
        fixed: for validation: noise and timestep of a sample depend on its ``"index"`` entry in the batch alone, so
            that losses compare across epochs, batch sizes and processes. Timesteps are spread evenly over the
            indices. Without ``"index"`` the step and the row take its place.
        condition_dropout: probability in ``[0, 1]`` that the condition of a sample becomes -1 (for classifier-free
            guidance); never applied with ``fixed``.
        scheduler: noise scheduler whose ``prediction_type`` names the target: the noise (``"epsilon"``), the image
            (``"sample"``) or the velocity (``"v_prediction"``). None: the noise.

    Raises:
        ValueError: when ``num_train_timesteps`` or ``condition_dropout`` is out of range, or a batch has no condition.

    Example:
        >>> prepare_batch = SeededDiffusionPrepareBatch(num_train_timesteps=1000, seed=1)
        >>> prepare_batch.set_step(1)
        >>> images, target, _, kwargs = prepare_batch({"image": torch.zeros(2, 1, 8, 8)})
        >>> sorted(kwargs)
        ['noise', 'timesteps']
    """

    def __init__(
        self,
        num_train_timesteps: int,
        condition_name: str | None = None,
        seed: int = 0,
        fixed: bool = False,
        condition_dropout: float = 0.0,
        scheduler: Scheduler | None = None,
    ) -> None:
        if num_train_timesteps < 1:
            raise ValueError(f"num_train_timesteps must be at least 1, got {num_train_timesteps}")
        if scheduler is not None and num_train_timesteps > scheduler.num_train_timesteps:
            raise ValueError(
                f"num_train_timesteps must be at most {scheduler.num_train_timesteps}, the scheduler's, "
                f"got {num_train_timesteps}"
            )
        if not 0.0 <= condition_dropout <= 1.0:
            raise ValueError(f"condition_dropout must be in [0, 1], got {condition_dropout}")
        super().__init__(num_train_timesteps=num_train_timesteps, condition_name=condition_name)
        self.scheduler = scheduler
        self.seed = seed
        self.fixed = fixed
        self.condition_dropout = condition_dropout
        self.step = 0
        self._indices: list[int] | None = None

    def set_step(self, step: int) -> None:
        """Set the step that names the streams of the next call; without it, every call moves on by one."""
        self.step = int(step)

    def _rows(self, count: int) -> range:
        return range(get_rank(), get_world_size() * count, get_world_size())

    def _generators(self, purpose: str, count: int) -> list[torch.Generator]:
        if self._indices is not None:
            return [keyed_generator(self.seed, purpose, "index", index) for index in self._indices]
        return [keyed_generator(self.seed, purpose, self.step, row) for row in self._rows(count)]

    def get_noise(self, images: torch.Tensor) -> torch.Tensor:
        """Return standard normal noise like ``images`` (N, C, ...), one keyed generator per sample."""
        generators = self._generators("noise", images.shape[0])
        return per_sample_randn(generators, images.shape[1:], device=images.device, dtype=images.dtype)

    def get_timesteps(self, images: torch.Tensor) -> torch.Tensor:
        """Return timesteps (N,): uniform at random, or spread evenly over the samples' indices with ``fixed``."""
        count = images.shape[0]
        if self.fixed:
            positions = self._indices
            if positions is None:
                positions = [self.step * get_world_size() * count + row for row in self._rows(count)]
            steps = [int((0.5 + position * _GOLDEN_RATIO) % 1.0 * self.num_train_timesteps) for position in positions]
        else:
            generators = self._generators("timestep", count)
            steps = [int(torch.randint(self.num_train_timesteps, (1,), generator=each)) for each in generators]
        return torch.tensor(steps, dtype=torch.long, device=images.device)

    def get_target(self, images: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Return what the network is to predict, (N, C, ...), according to the scheduler's ``prediction_type``."""
        prediction_type = getattr(self.scheduler, "prediction_type", DDPMPredictionType.EPSILON)
        if prediction_type == DDPMPredictionType.SAMPLE:
            return images
        if prediction_type == DDPMPredictionType.V_PREDICTION:
            return self.scheduler.get_velocity(images, noise, timesteps)
        return noise

    def _drop_condition(self, condition: torch.Tensor) -> torch.Tensor:
        generators = self._generators("condition dropout", condition.shape[0])
        dropped = torch.tensor([float(torch.rand(1, generator=each)) < self.condition_dropout for each in generators])
        dropped = dropped.to(condition.device).reshape(-1, *[1] * (condition.ndim - 1))
        return condition.masked_fill(dropped, _NO_CONDITION)

    def __call__(
        self,
        batchdata: dict[str, torch.Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor, tuple, dict]:
        """Return ``(images, target, (), {"noise", "timesteps"[, "condition"]})`` as plain tensors on ``device``."""
        named = self.condition_name is not None and isinstance(batchdata, Mapping)
        if named and self.condition_name not in batchdata:
            raise ValueError(
                f"condition_name must be a key of the batch ({', '.join(map(str, batchdata))}), got "
                f"{self.condition_name!r}: give the data labels, or train without them"
            )
        self._indices = None
        if self.fixed and isinstance(batchdata, Mapping) and "index" in batchdata:
            self._indices = [int(index) for index in batchdata["index"]]
        images, target, args, infer_kwargs = super().__call__(batchdata, device, non_blocking, **kwargs)
        infer_kwargs = {key: plain_tensor(value) for key, value in infer_kwargs.items()}
        if "condition" in infer_kwargs and self.condition_dropout > 0 and not self.fixed:
            infer_kwargs["condition"] = self._drop_condition(infer_kwargs["condition"])
        self.step += 1
        return plain_tensor(images), plain_tensor(target), args, infer_kwargs
