"""One modality from another, volume in and volume out: slices sampled in latent space and put back together."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.networks.schedulers import Scheduler
from torch import nn
from tqdm import tqdm

from ..utils import derive_seed, is_main_process
from .sampling import SamplingInferer, _checked_seeds, _fixed_cpu_threads
from .volume_slices import VolumeSlices

__all__ = ["TranslationInferer"]

_DIRECTIONS = ("ct2mr", "mr2ct")


class TranslationInferer(Inferer):
    """
    Translate volumes slice by slice with a diffusion network in latent space, such as `DiffMa`.

    Each slice is encoded; its latent is the context that `SamplingInferer` samples the other modality's latent with,
    which is decoded and put back at the slice's place. The same seed gives the same volume at any ``slice_batch``, to
    rounding, and in any number of processes. Averaging over seeds approaches the mean of what the model thinks
    possible, which is nearer to the truth in squared error and smoother than any image; the standard deviation says
    where the samples disagree, not how wrong they are together.

    After a call ``inferer.result`` holds plain tensors: ``"pred"`` and ``"std"`` (None for one sample) of the input's
    shape, ``"seeds"``, for each volume the list of its samples' seeds, and ``"mask"``, bool of the input's shape, or
    None.

    Args:
        latent_space: `LatentSpace`, or a module with its ``encode`` and ``decode``; frozen and in evaluation mode from
            here on.
        scheduler: of the sampling, see `SamplingInferer`. Latents reach beyond [-1, 1], so it should not clip them.
        num_inference_steps: steps of the sampling.
        slice_batch: slices sampled together; sets the memory needed.
        num_averages: samples of each volume, of seeds ``seed, seed + 1, ...``; the prediction is their mean.
        seed: seed of each volume where a call names none.
        guidance_scale: classifier-free guidance, for networks trained with condition dropout; 1 is none.
        shared_noise: whether all slices of a volume start from the same noise (and get the same in each step), which
            keeps neighbouring slices alike; otherwise each has noise of its own.
        direction: ``"ct2mr"`` or ``"mr2ct"``; told to networks that have a ``num_directions`` above 0.
        pass_position: whether the network gets the slices' ``position``, 0 for the first slice to 1 for the last.
        image_embedder: from source slices (N, 1, H, W) to vectors (N, E), given to the network as ``image_embedding``.
        slice_axis: spatial axis to cut along.
        progress: whether rank 0 shows a progress bar over the batches of slices.
        cpu_threads: number of threads on a CPU; None takes what torch has, which may change the last bits.
        order_seed: seed of random scan orders.

    Raises:
        ValueError: when an argument is out of range.

    Example:
        >>> from monai_mamba_gen.networks.nets import DiffMa, LatentSpace
        >>> from monai_mamba_gen.networks.schedulers import RespacedDDIMScheduler
        >>> network = DiffMa(in_channels=1, image_size=16, hidden_size=16, num_layers=2)
        >>> inferer = TranslationInferer(LatentSpace(), RespacedDDIMScheduler(1000), num_inference_steps=2)
        >>> inferer(torch.zeros(1, 1, 16, 16, 3), network).shape
        torch.Size([1, 1, 16, 16, 3])
    """

    def __init__(
        self,
        latent_space: nn.Module,
        scheduler: Scheduler,
        num_inference_steps: int = 50,
        slice_batch: int = 8,
        num_averages: int = 1,
        seed: int = 0,
        guidance_scale: float = 1.0,
        shared_noise: bool = True,
        direction: str = "ct2mr",
        pass_position: bool = False,
        image_embedder: Callable[[torch.Tensor], torch.Tensor] | None = None,
        slice_axis: int = -1,
        progress: bool = False,
        cpu_threads: int | None = None,
        order_seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in {"slice_batch": slice_batch, "num_averages": num_averages}.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        if direction not in _DIRECTIONS:
            raise ValueError(f"direction must be one of {_DIRECTIONS}, got {direction!r}")
        if slice_axis not in range(-3, 3):
            raise ValueError(f"slice_axis must be from -3 to 2, got {slice_axis!r}")
        self.sampler = SamplingInferer(
            scheduler,
            num_inference_steps,
            guidance_scale=guidance_scale,
            progress=False,
            order_seed=order_seed,
            cpu_threads=cpu_threads,
        )
        self.latent_space = latent_space.eval().requires_grad_(False)
        self._warn_of_clipping(scheduler)
        self.slice_batch = slice_batch
        self.num_averages = num_averages
        self.seed = seed
        self.shared_noise = shared_noise
        self.direction = direction
        self.pass_position = pass_position
        self.image_embedder = image_embedder
        self.slice_axis = slice_axis
        self.progress = progress
        self.result: dict[str, Any] = {}

    def _warn_of_clipping(self, scheduler: Scheduler) -> None:
        in_latents = getattr(self.latent_space, "autoencoder", None) is not None
        if in_latents and scheduler.clip_sample and scheduler.clip_sample_values[1] <= 1:
            warnings.warn(
                f"the scheduler clips latents, whose standard deviation is about 1, to {scheduler.clip_sample_values}: "
                "give it clip_sample=False",
                stacklevel=3,
            )

    def describe(self) -> dict[str, Any]:
        """Return the JSON-like settings that, with network, latent space, noise schedule and input, make a volume."""
        own = ("direction", "seed", "num_averages", "shared_noise", "pass_position", "slice_axis")
        kept = ("sampler", "prediction_type", "train_timesteps", "steps", "guidance_scale", "order_seed")
        sampling = self.sampler.describe()
        return {**{name: getattr(self, name) for name in own}, **{key: sampling[key] for key in kept}}

    def __call__(  # type: ignore[override]
        self,
        inputs: torch.Tensor,
        network: nn.Module,
        mask: torch.Tensor | None = None,
        seeds: Sequence[int] | torch.Tensor | None = None,
        position: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Translate each volume.

        Args:
            inputs: source volumes (N, 1, H, W, D) or slices (N, 1, H, W) in [-1, 1].
            network: called as ``network(x, timesteps=, context=)``, with ``position=``, ``direction=`` and
                ``image_embedding=`` where they are passed.
            mask: of the inputs' shape, above 0 inside. Outside the prediction is -1 and the standard deviation 0;
                slices without any inside are not sampled.
            seeds: one integer for each volume; default ``seed`` for each.
            position: (N,) in [0, 1] of slices (N, 1, H, W), for ``pass_position``; default 0.

        Returns:
            Predictions in [-1, 1], of the inputs' shape; a MetaTensor with the inputs' geometry where they are one.

        Raises:
            ValueError: when shapes or seeds do not fit, or sampling gives values that are not finite.
        """
        network = getattr(network, "module", network)  # DistributedDataParallel would wait for the other processes
        volumes = VolumeSlices(inputs, mask, self.slice_axis, position)
        seeds = _checked_seeds([self.seed] * len(inputs) if seeds is None else seeds, len(inputs), "volume")
        pred = volumes.empty(-1.0)
        std = volumes.empty(0.0) if self.num_averages > 1 else None
        self.latent_space.to(inputs.device)
        threads = self.sampler.cpu_threads if inputs.device.type == "cpu" else None
        batches = volumes.batches(self.slice_batch)
        hidden = not (self.progress and is_main_process())
        with torch.no_grad(), _fixed_cpu_threads(threads):
            for places in tqdm(batches, "slices", unit="batch", disable=hidden, leave=False):
                samples = self._samples(network, volumes, places, seeds)
                volumes.put(pred, places, samples.mean(0))
                if std is not None:
                    volumes.put(std, places, samples.std(0))
        pred, std = volumes.restored(pred, -1.0), None if std is None else volumes.restored(std, 0.0)
        used = [[seed + number for number in range(self.num_averages)] for seed in seeds]
        self.result = {"pred": pred, "std": std, "seeds": used, "mask": volumes.mask}
        return MetaTensor(pred).copy_meta_from(inputs) if isinstance(inputs, MetaTensor) else pred

    def _samples(
        self, network: nn.Module, volumes: VolumeSlices, places: list[tuple[int, int]], seeds: list[int]
    ) -> torch.Tensor:
        """Return ``num_averages`` translations of some slices, (K, B, 1, H, W) in [-1, 1]."""
        source = volumes.take(places)
        with torch.autocast(source.device.type, enabled=False):  # half precision overflows in some autoencoders
            context = self.latent_space.encode(source).to(source.dtype)
        keywords: dict[str, torch.Tensor] = {}
        if self.pass_position:
            keywords["position"] = volumes.positions(places)
        if getattr(network, "num_directions", 0):
            keywords["direction"] = torch.full((len(places),), _DIRECTIONS.index(self.direction), device=source.device)
        if self.image_embedder is not None:
            if isinstance(self.image_embedder, nn.Module):
                self.image_embedder.to(source.device).eval()
            keywords["image_embedding"] = self.image_embedder(source)
        samples = []
        for number in range(self.num_averages):
            chosen = [self._slice_seed(seeds[volume] + number, level) for volume, level in places]
            latents = self.sampler(context, network, seeds=chosen, condition=context, **keywords)
            with torch.autocast(source.device.type, enabled=False):
                image = self.latent_space.decode(latents).to(source.dtype)
            if image.shape != source.shape:
                image = image[..., : source.shape[-2], : source.shape[-1]]  # the latent space padded
            samples.append(image.clamp(-1, 1))
        return torch.stack(samples)

    def _slice_seed(self, seed: int, level: int) -> int:
        return seed if self.shared_noise else derive_seed(seed, "slice", level)
