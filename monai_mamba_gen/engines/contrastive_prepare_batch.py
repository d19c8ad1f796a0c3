"""Two views of every image, different in what should not matter, as latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from monai.engines import PrepareBatch

from ..utils.distributed import get_rank, get_world_size
from ..utils.plain_tensor import plain_tensor
from ..utils.seeding import keyed_generator

__all__ = ["ContrastivePrepareBatch"]

_VIEWS = ("first view", "second view")


class _Encoder(Protocol):
    encode: Callable[[torch.Tensor], torch.Tensor]


class ContrastivePrepareBatch(PrepareBatch):
    """
    Augment each image twice and encode both, for `ContrastiveEmbedder` and `InfoNCELoss`.

    A view is, in this order: flipped along each axis of ``flip_axes`` by chance of one half; shifted by whole pixels,
    the last ones repeated; multiplied and moved in brightness; given Gaussian noise; clipped to [-1, 1]. All draws are
    keyed by (seed, step, row of the global batch, view), so they are the same on any number of processes.

    Args:
        latent_space: object with ``encode(images) -> latents``, such as `LatentSpace`; used without gradients.
        key: key of the images, (N, 1, H, W) in [-1, 1].
        seed: names the streams.
        fixed: for validation: the views of a sample depend on its ``"index"`` alone.
        max_shift: largest shift as a fraction of a side.
        flip_axes: axes that are flipped, 0 for H and 1 for W.
        contrast: the factor is uniform in ``[1 - contrast, 1 + contrast]``.
        brightness: the offset is uniform in ``[-brightness, brightness]``.
        noise: standard deviation of the noise.

    Raises:
        ValueError: when an argument is out of range.

    Example:
        >>> class Pixels:
        ...     def encode(self, images):
        ...         return images
        >>> prepare_batch = ContrastivePrepareBatch(Pixels())
        >>> views, target = prepare_batch({"image": torch.zeros(2, 1, 8, 8)})
        >>> views.shape, target
        (torch.Size([4, 1, 8, 8]), tensor([0, 1]))
    """

    def __init__(
        self,
        latent_space: _Encoder,
        key: str = "image",
        seed: int = 0,
        fixed: bool = False,
        max_shift: float = 0.1,
        flip_axes: Sequence[int] = (0, 1),
        contrast: float = 0.1,
        brightness: float = 0.1,
        noise: float = 0.05,
    ) -> None:
        for name, value in {"max_shift": max_shift, "contrast": contrast}.items():
            if not 0.0 <= value < 1.0:
                raise ValueError(f"{name} must be in [0, 1), got {value}")
        for name, value in {"brightness": brightness, "noise": noise}.items():
            if value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        if set(flip_axes) - {0, 1}:
            raise ValueError(f"flip_axes must be of 0 and 1, got {tuple(flip_axes)}")
        self.latent_space, self.key, self.seed, self.fixed = latent_space, key, seed, fixed
        self.max_shift, self.flip_axes = max_shift, tuple(flip_axes)
        self.contrast, self.brightness, self.noise = contrast, brightness, noise
        self.step = 0

    def set_step(self, step: int) -> None:
        """Set the step that names the streams of the next call; without it, every call moves on by one."""
        self.step = int(step)

    def _names(self, batchdata: Mapping[str, Any], count: int) -> list[tuple[int | str, ...]]:
        """Return what the draws of each sample are keyed by."""
        if self.fixed and "index" in batchdata:
            return [("index", int(index)) for index in batchdata["index"]]
        return [(self.step, row) for row in range(get_rank(), get_world_size() * count, get_world_size())]

    def _view(self, image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return one view of one image (1, H, W)."""
        for axis in self.flip_axes:
            if float(torch.rand(1, generator=generator)) < 0.5:
                image = image.flip(axis + 1)
        most = [int(round(self.max_shift * size)) for size in image.shape[1:]]
        start = [int(torch.randint(2 * each + 1, (1,), generator=generator)) for each in most]
        if any(most):
            padded = F.pad(image[None], (most[1], most[1], most[0], most[0]), mode="replicate")[0]
            image = padded[:, start[0] : start[0] + image.shape[1], start[1] : start[1] + image.shape[2]]
        factor, offset = (2 * torch.rand(2, generator=generator) - 1).tolist()
        noise = torch.randn(image.shape, generator=generator).to(image)
        return ((1 + self.contrast * factor) * image + self.brightness * offset + self.noise * noise).clamp(-1, 1)

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return latents (2N, C, h, w), first views and then second ones, and the rows (N,) that belong together."""
        images = plain_tensor(batchdata[self.key]).to(device=device, non_blocking=non_blocking, **kwargs)
        names = self._names(batchdata, len(images))
        views = [
            self._view(image, keyed_generator(self.seed, view, *name))
            for view in _VIEWS
            for image, name in zip(images, names, strict=True)
        ]
        with torch.no_grad():
            latents = self.latent_space.encode(torch.stack(views))
        self.step += 1
        return latents, torch.arange(len(images), device=images.device)
