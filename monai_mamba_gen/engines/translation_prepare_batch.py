"""Batches of image-to-image diffusion in latent space: a noised target latent, its source's latent as context."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.networks.schedulers import Scheduler
from torch import nn

from ..utils.plain_tensor import plain_tensor
from .prepare_batch import SeededDiffusionPrepareBatch

__all__ = ["TranslationPrepareBatch"]

_DIRECTIONS = ("ct2mr", "mr2ct", "both")


class TranslationPrepareBatch(SeededDiffusionPrepareBatch):
    """
    Encode pairs of slices, noise the target's latent to a random timestep, and pass the source's latent as context.

    Noise, timesteps, dropout and directions come from the streams of `SeededDiffusionPrepareBatch`: keyed by seed, step
    and row of the global batch, or by ``"index"`` with ``fixed``. The latent space is frozen and in evaluation mode
    from here on.

    Batches hold ``"image"`` (CT) and ``"target"`` (MR), (N, 1, H, W) in [-1, 1], and, where they are passed,
    ``"position"`` (N,), the slice's place in its volume from 0 to 1.

    A call returns ``(x, targets, (), keywords)`` for MONAI's ``SimpleInferer``:

    - ``x``: noised latent of the target, (N, C, h, w);
    - ``targets``: what `HybridDiffusionLoss` wants: ``"prediction"``, what the scheduler's ``prediction_type`` asks
      for; ``"clean"``, the target's latent; ``"noisy"``, ``x``; ``"timesteps"``;
    - keywords: ``"timesteps"`` (N,); ``"context"``, the source's latent, -1 everywhere where it was dropped;
      ``"position"`` (N,) with ``pass_position``; ``"direction"`` (N,), 0 from CT to MR and 1 back, with
      ``direction="both"``; ``"image_embedding"`` (N, E) with an ``image_embedder`` (never dropped: a network takes no
      embedding where the context is missing).

    Args:
        latent_space: module with ``encode``: images (N, 1, H, W) to latents, such as `LatentSpace`.
        num_train_timesteps: timesteps are drawn from ``[0, num_train_timesteps)``.
        scheduler: noise scheduler, with ``add_noise`` and a ``prediction_type``.
        seed: names the streams.
        fixed: for validation: noise, timestep and direction of a sample depend on its ``"index"`` alone.
        condition_dropout: probability in ``[0, 1]`` that the context of a sample is missing (for classifier-free
            guidance); never applied with ``fixed``.
        direction: ``"ct2mr"``, ``"mr2ct"``, or ``"both"``: each sample's is a coin toss.
        pass_position: whether the slice's position goes to the network.
        image_embedder: from source images (N, 1, H, W) to vectors (N, E), frozen, such as `BiomedCLIPEmbedding`.

    Raises:
        ValueError: when an argument is out of range, shapes of a pair differ, or a batch lacks a key.

    Example:
        >>> from monai_mamba_gen.networks.schedulers import RespacedDDPMScheduler
        >>> from monai_mamba_gen.networks.nets import LatentSpace
        >>> prepare_batch = TranslationPrepareBatch(LatentSpace(), 1000, RespacedDDPMScheduler(1000))
        >>> slices = torch.zeros(2, 1, 8, 8)
        >>> x, targets, _, kwargs = prepare_batch({"image": slices, "target": slices})
        >>> x.shape, sorted(targets), sorted(kwargs)
        (torch.Size([2, 1, 8, 8]), ['clean', 'noisy', 'prediction', 'timesteps'], ['context', 'timesteps'])
    """

    def __init__(
        self,
        latent_space: nn.Module,
        num_train_timesteps: int,
        scheduler: Scheduler,
        seed: int = 0,
        fixed: bool = False,
        condition_dropout: float = 0.0,
        direction: str = "ct2mr",
        pass_position: bool = False,
        image_embedder: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        if direction not in _DIRECTIONS:
            raise ValueError(f"direction must be one of {_DIRECTIONS}, got {direction!r}")
        super().__init__(
            num_train_timesteps, seed=seed, fixed=fixed, condition_dropout=condition_dropout, scheduler=scheduler
        )
        self.latent_space = latent_space.eval().requires_grad_(False)
        self.direction = direction
        self.pass_position = pass_position
        self.image_embedder = image_embedder

    def _directions(self, count: int, device: torch.device) -> torch.Tensor:
        """Return (N,) int64: 0 from CT to MR, 1 from MR to CT."""
        if self.direction != "both":
            return torch.full((count,), _DIRECTIONS.index(self.direction), device=device)
        generators = self._generators("direction", count)
        return torch.tensor([int(torch.randint(2, (1,), generator=each)) for each in generators], device=device)

    @torch.no_grad()
    def _latents(self, source: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.latent_space.to(source.device)
        with torch.autocast(source.device.type, enabled=False):
            latents = self.latent_space.encode(torch.cat([source, target]))
        context, clean = latents.to(source.dtype).chunk(2)
        return context, clean

    @torch.no_grad()
    def _embedding(self, source: torch.Tensor) -> torch.Tensor:
        if isinstance(self.image_embedder, nn.Module):
            self.image_embedder.to(source.device).eval()
        return self.image_embedder(source)

    def __call__(
        self,
        batchdata: dict[str, torch.Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], tuple, dict[str, torch.Tensor]]:
        """Return ``(x, targets, (), keywords)`` as plain tensors on ``device``."""
        for key in ("image", "target", *(("position",) if self.pass_position else ())):
            if key not in batchdata:
                raise ValueError(f"batch must have {key!r}, it has {sorted(batchdata)}")
        self._indices = [int(index) for index in batchdata["index"]] if self.fixed and "index" in batchdata else None

        def moved(value: Any) -> torch.Tensor:
            return plain_tensor(torch.as_tensor(value)).to(device=device, non_blocking=non_blocking, **kwargs)

        image, target = moved(batchdata["image"]), moved(batchdata["target"])
        if image.shape != target.shape:
            raise ValueError(f"target must have the image's shape {tuple(image.shape)}, got {tuple(target.shape)}")
        directions = self._directions(len(image), image.device)
        back = directions.bool().reshape(-1, *[1] * (image.ndim - 1))
        source, target = torch.where(back, target, image), torch.where(back, image, target)
        context, clean = self._latents(source, target)
        keywords = {"context": context}
        if self.condition_dropout > 0 and not self.fixed:
            keywords["context"] = self._drop_condition(context)
        if self.pass_position:
            keywords["position"] = moved(batchdata["position"]).to(clean.dtype)
        if self.direction == "both":
            keywords["direction"] = directions
        if self.image_embedder is not None:
            keywords["image_embedding"] = self._embedding(source)
        noise, timesteps = self.get_noise(clean), self.get_timesteps(clean)
        noisy = self.scheduler.add_noise(original_samples=clean, noise=noise, timesteps=timesteps)
        targets = {"prediction": self.get_target(clean, noise, timesteps), "clean": clean, "noisy": noisy}
        self.step += 1
        return noisy, targets | {"timesteps": timesteps}, (), {"timesteps": timesteps, **keywords}
