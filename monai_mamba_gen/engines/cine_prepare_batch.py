"""Batches of a deformable diffusion model: noised end systole, what to predict, and the phases to warp to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.networks.schedulers import Scheduler

from ..utils.plain_tensor import plain_tensor
from .prepare_batch import SeededDiffusionPrepareBatch

__all__ = ["CinePrepareBatch"]

_MISSING = -1.0


class CinePrepareBatch(SeededDiffusionPrepareBatch):
    """
    Prepare pairs of end-diastolic (ED) and end-systolic (ES) volumes for training and validation.

    The ES volume is noised to a random timestep. Noise, timesteps, dropout and phases come from the streams of
    `SeededDiffusionPrepareBatch`: keyed by seed, step and row of the global batch, or by ``"index"`` with ``fixed``.

    Batches hold ``"image"`` (ED) and ``"target"`` (ES), (N, 1, H, W, D) in [-1, 1], and may hold true frames between
    them, ``"frames"`` (N, F, H, W, D) at ``"phases"`` (N, F) in [0, 1].

    A call returns ``(x, targets, (), {"timesteps", "context", "phases"})``:

    - ``x``: noised ES volume (N, 1, H, W, D);
    - ``targets``: ``"prediction"``, what the scheduler's ``prediction_type`` asks for; ``"volume"``, the ES volume;
      ``"known"`` and ``"noisy"``, (N,) bool, see ``target_dropout`` and ``clean_fraction``; and ``"frames"`` where the
      batch has them;
    - ``context``: (N, 2, H, W, D), ED and ES;
    - ``phases``: (N, P), those of the batch or drawn ones, and then 1.

    Args:
        num_train_timesteps: timesteps are drawn from ``[0, num_train_timesteps)``.
        scheduler: noise scheduler, with ``add_noise`` and a ``prediction_type``.
        seed: names the streams.
        fixed: for validation: noise, timestep and phases of a sample depend on its ``"index"`` alone.
        target_dropout: probability in ``[0, 1]`` that the ES volume is missing (-1) from the context of a sample, so
            that the network learns to generate; never applied with ``fixed``.
        phases_per_step: number of phases drawn from [0, 1) for each sample where the batch has no true frames.
        judge_dropped: whether the motion of samples whose ES volume is missing is judged, too. What noise there is
            leaves them part of it, and from the rest the network learns how hearts like this one beat, which is what
            generation needs.
        clean_fraction: probability in ``[0, 1]`` that a sample is as interpolation has it: no noise, timestep 0, the ES
            volume given; its motion is trained, its prediction is not; never applied with ``fixed``.

    Raises:
        ValueError: when an argument is out of range, or frames and phases of a batch do not fit.

    Example:
        >>> from monai_mamba_gen.networks.schedulers import RespacedDDPMScheduler
        >>> prepare_batch = CinePrepareBatch(1000, RespacedDDPMScheduler(1000))
        >>> volume = torch.zeros(2, 1, 8, 8, 4)
        >>> _, targets, _, kwargs = prepare_batch({"image": volume, "target": volume})
        >>> sorted(targets), kwargs["context"].shape, kwargs["phases"].tolist()
        (['known', 'noisy', 'prediction', 'volume'], torch.Size([2, 2, 8, 8, 4]), [[1.0], [1.0]])
    """

    def __init__(
        self,
        num_train_timesteps: int,
        scheduler: Scheduler,
        seed: int = 0,
        fixed: bool = False,
        target_dropout: float = 0.0,
        phases_per_step: int = 0,
        clean_fraction: float = 0.0,
        judge_dropped: bool = True,
    ) -> None:
        for name, value in {"target_dropout": target_dropout, "clean_fraction": clean_fraction}.items():
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must be in [0, 1], got {value}")
        if phases_per_step < 0:
            raise ValueError(f"phases_per_step must be at least 0, got {phases_per_step}")
        super().__init__(num_train_timesteps, seed=seed, fixed=fixed, scheduler=scheduler)
        self.target_dropout, self.clean_fraction = target_dropout, clean_fraction
        self.phases_per_step = phases_per_step
        self.judge_dropped = judge_dropped

    def _chosen(self, purpose: str, probability: float, like: torch.Tensor) -> torch.Tensor:
        """Draw which samples something happens to, (N,) bool."""
        if self.fixed or probability == 0:
            return torch.zeros(len(like), dtype=torch.bool, device=like.device)
        generators = self._generators(purpose, len(like))
        return torch.tensor([float(torch.rand(1, generator=each)) < probability for each in generators]).to(like.device)

    def _phases(self, given: torch.Tensor | None, count: int) -> torch.Tensor:
        """Return (N, P) phases on the CPU or where they were given; the last is 1."""
        if given is None:
            generators = self._generators("phases", count)
            given = torch.stack([torch.rand(self.phases_per_step, generator=each) for each in generators])
        return torch.cat([given.float(), given.new_ones(count, 1, dtype=torch.float32)], dim=1)

    @staticmethod
    def _frames(batchdata: Mapping[str, Any], volume: torch.Tensor) -> tuple[Any, Any]:
        """Return true frames and their phases, None and None where the batch has none."""
        frames, phases = batchdata.get("frames"), batchdata.get("phases")
        if frames is None or phases is None or frames.shape[1] == 0:
            return None, None
        expected = (len(volume), phases.shape[-1], *volume.shape[2:])
        if tuple(frames.shape) != expected or len(phases) != len(volume):
            raise ValueError(
                f"frames must have shape {expected} for phases {tuple(phases.shape)}, got {tuple(frames.shape)}"
            )
        return frames, phases

    def __call__(
        self,
        batchdata: dict[str, torch.Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], tuple, dict[str, torch.Tensor]]:
        """Return ``(x, targets, (), {"timesteps", "context", "phases"})`` as plain tensors on ``device``."""
        self._indices = [int(index) for index in batchdata["index"]] if self.fixed and "index" in batchdata else None

        def moved(value: torch.Tensor) -> torch.Tensor:
            return plain_tensor(value).to(device=device, non_blocking=non_blocking, **kwargs)

        source, target = moved(batchdata["image"]), moved(batchdata["target"])
        frames, given = self._frames(batchdata, target)
        noise, timesteps = self.get_noise(target), self.get_timesteps(target)
        targets = {"prediction": self.get_target(target, noise, timesteps), "volume": target}
        if frames is not None:
            targets["frames"] = moved(frames)
        phases = self._phases(None if given is None else plain_tensor(given), len(target)).to(target.device)
        clean = self._chosen("clean", self.clean_fraction, target)
        dropped = self._chosen("target dropout", self.target_dropout, target) & ~clean
        targets |= {"known": torch.ones_like(dropped) if self.judge_dropped else ~dropped, "noisy": ~clean}
        given_target = target.masked_fill(dropped.reshape(-1, 1, 1, 1, 1), _MISSING)
        context = torch.cat([source, given_target], dim=1)
        noisy = self.scheduler.add_noise(original_samples=target, noise=noise, timesteps=timesteps)
        noisy, timesteps = torch.where(clean.reshape(-1, 1, 1, 1, 1), target, noisy), timesteps * ~clean
        self.step += 1
        return noisy, targets, (), {"timesteps": timesteps, "context": context, "phases": phases}
