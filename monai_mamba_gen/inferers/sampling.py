"""The sampling loop as an inferer, so that evaluators and MONAI Label generate images without knowing about noise."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.networks.schedulers import DDIMScheduler, Scheduler
from torch import nn
from tqdm import tqdm

from ..networks.blocks import seed_scan_orders
from ..networks.schedulers import RespacedDDIMScheduler, RespacedDDPMScheduler
from ..utils import derive_seed, is_main_process, keyed_generator, per_sample_randn
from .variation import checked_strength, start_of_sampling

__all__ = ["SamplingInferer"]

_NO_CONDITION = -1  # also what MONAI's DiffusionInferer fills the unconditioned half of guidance with


@contextmanager
def _fixed_cpu_threads(count: int | None) -> Iterator[None]:
    """Compute with a given number of CPU threads; None leaves it as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _doubled(kwargs: dict[str, Any], count: int) -> dict[str, Any]:
    """Repeat the tensors that have a row for each image, for the two halves of guidance."""

    def repeated(value: Any) -> Any:
        has_rows = isinstance(value, torch.Tensor) and value.ndim > 0 and len(value) == count
        return torch.cat([value, value]) if has_rows else value

    return {name: repeated(value) for name, value in kwargs.items()}


@contextmanager
def _sampling_mode(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode without gradients; afterwards restore modes and scan-order generators."""
    modules = list(network.modules())
    training = [module.training for module in modules]
    generators = [(m, m.order_generator) for m in modules if hasattr(m, "order_generator")]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in zip(modules, training, strict=True):
            module.training = mode
        for module, generator in generators:
            module.order_generator = generator


def _checked_seeds(seeds: Sequence[int] | torch.Tensor, count: int, each: str) -> list[int]:
    """Return one integer for each image or volume."""
    values = torch.as_tensor(seeds)
    if values.is_floating_point() or values.dtype == torch.bool or values.shape != (count,):
        raise ValueError(
            f"seeds must be {count} integers, one for each {each}, got {values.dtype} of shape {tuple(values.shape)}"
        )
    return values.tolist()


class SamplingInferer(Inferer):
    """
    Generate images with a diffusion network: ``inferer(inputs, network)`` runs the whole sampling loop.

    Each image has a seed, and one CPU generator of its own for its first noise and the noise of every step. Random
    scan orders (Sequence Regeneration) are drawn anew at every step from ``order_seed`` and the index of the step, so
    all images share them, whoever is in the batch. The same seed therefore gives the same image at any batch size, to
    rounding, and bit for bit in any number of processes where the batches are the same (`SeedBatchSampler` sees to
    that). The bits of a sum also depend on the number of CPU threads, which torchrun sets to 1 for several processes
    but not for one; sampling on a CPU therefore fixes it.

    Args:
        scheduler: a `RespacedDDPMScheduler`, `RespacedDDIMScheduler` or MONAI `DDIMScheduler`; it also clips.
            The last leaves noise in the image where ``num_inference_steps`` does not divide the training timesteps.
        num_inference_steps: number of steps, 1 to the number of training timesteps.
        seed: seed of the first image of a call that names no seeds; the next images take ``seed + 1`` and so on.
        guidance_scale: classifier-free guidance ``eps_u + s (eps_c - eps_u)`` (Ho and Salimans 2022); 1 is none. The
            unconditioned half has the label -1, or a floating-point ``condition`` filled with -1.
        class_label: label of every image, where a call gives no ``condition``.
        progress: whether rank 0 shows a progress bar.
        order_seed: seed of the random scan orders.
        cpu_threads: number of threads for sampling on a CPU; None takes what torch has, which is faster in a single
            process, but then another number of threads may change the last bits.
        strength: above 0 and up to 1. Below 1 the result is a variant of the input (SDEdit): the sampling starts from
            the input with the noise of that share of the steps, and runs only these. 1 or None starts from pure noise.

    Raises:
        ValueError: when the scheduler is another one, or an argument is out of range.

    Example:
        >>> from monai_mamba_gen.networks.nets import VMDDPM
        >>> network = VMDDPM(channels=(8, 8, 8, 8), layers_per_stage=1)
        >>> inferer = SamplingInferer(RespacedDDPMScheduler(1000), num_inference_steps=2, progress=False)
        >>> inferer(torch.zeros(3, 1, 16, 16), network, seeds=[7, 8, 9]).shape
        torch.Size([3, 1, 16, 16])
    """

    def __init__(
        self,
        scheduler: Scheduler,
        num_inference_steps: int = 50,
        seed: int = 0,
        guidance_scale: float = 1.0,
        class_label: int | None = None,
        progress: bool = True,
        order_seed: int = 0,
        cpu_threads: int | None = 1,
        strength: float | None = None,
    ) -> None:
        super().__init__()
        if cpu_threads is not None and cpu_threads < 1:
            raise ValueError(f"cpu_threads must be at least 1 or None, got {cpu_threads}")
        if not isinstance(scheduler, (RespacedDDPMScheduler, DDIMScheduler)):
            raise ValueError(
                f"scheduler must be a RespacedDDPMScheduler, RespacedDDIMScheduler or DDIMScheduler, got "
                f"{type(scheduler).__name__}; MONAI's DDPMScheduler takes no noise per image and is wrong at fewer "
                "steps than in training: name monai_mamba_gen.networks.schedulers.RespacedDDPMScheduler instead"
            )
        self.scheduler = scheduler
        self.num_inference_steps = self._checked_steps(num_inference_steps)
        self.seed = seed
        self.guidance_scale = guidance_scale
        self.class_label = class_label
        self.progress = progress
        self.order_seed = order_seed
        self.cpu_threads = cpu_threads
        self.strength = checked_strength(strength)

    def describe(self) -> dict[str, Any]:
        """Return the JSON-like settings that, with network, noise schedule and seed, determine an image."""
        strength = {} if self.strength is None else {"strength": self.strength}
        return strength | {
            "sampler": type(self.scheduler).__name__,
            "prediction_type": str(self.scheduler.prediction_type),
            "train_timesteps": self.scheduler.num_train_timesteps,
            "steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "class_label": self.class_label,
            "order_seed": self.order_seed,
        }

    def __call__(  # type: ignore[override]
        self,
        inputs: torch.Tensor,
        network: nn.Module,
        seeds: Sequence[int] | torch.Tensor | None = None,
        condition: torch.Tensor | None = None,
        num_inference_steps: int | None = None,
        strength: float | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """
        Generate one image for each of the inputs.

        Args:
            inputs: (N, C, H, W[, D]); gives shape, device, dtype and geometry. Its values, in the network's range, are
                used for a strength below 1 only.
            network: called as ``network(x, timesteps=, context=)`` with timesteps (N,) int64.
            seeds: one integer for each image; default ``seed, seed + 1, ...``.
            condition: given to the network as ``context``; labels (N,) int64 where the network has labels, and else
                floating point where guidance is asked for.
            num_inference_steps: number of steps of this call; default the inferer's.
            strength: strength of this call; default the inferer's.
            kwargs: given to the network at each step. Under guidance tensors of N rows are doubled, as the images are.

        Returns:
            Images (N, C, H, W[, D]) in the network's range, usually [-1, 1]; a MetaTensor with the inputs' geometry
            where the inputs are one.

        Raises:
            ValueError: when seeds or condition do not fit the batch, labels are asked of a network that has none,
                guidance has no condition, or the network's output is not finite; the message then names step and seed.
        """
        network = getattr(network, "module", network)  # DistributedDataParallel would wait for the other processes
        given = range(self.seed, self.seed + len(inputs)) if seeds is None else seeds
        seeds = _checked_seeds(given, len(inputs), "image")
        context = self._context(network, condition, inputs)
        steps = self.num_inference_steps if num_inference_steps is None else self._checked_steps(num_inference_steps)
        strength = self.strength if strength is None else checked_strength(strength)
        threads = self.cpu_threads if inputs.device.type == "cpu" else None
        with _sampling_mode(network), _fixed_cpu_threads(threads):
            image = self._sample(network, inputs, seeds, context, steps, strength, kwargs)
        return MetaTensor(image).copy_meta_from(inputs) if isinstance(inputs, MetaTensor) else image

    def _sample(
        self,
        network: nn.Module,
        inputs: torch.Tensor,
        seeds: Sequence[int],
        context: torch.Tensor | None,
        steps: int,
        strength: float | None,
        kwargs: dict[str, Any],
    ) -> torch.Tensor:
        shape, device = tuple(inputs.shape), inputs.device
        dtype = inputs.dtype if inputs.is_floating_point() else torch.float32
        generators = [keyed_generator(seed, "sample") for seed in seeds]
        self.scheduler.set_timesteps(steps)
        timesteps = self.scheduler.timesteps.tolist()
        noise = per_sample_randn(generators, shape[1:], device, dtype)
        image, first = start_of_sampling(inputs, noise, self.scheduler, strength)
        hidden = not (self.progress and is_main_process())
        for step, timestep in enumerate(tqdm(timesteps[first:], "sampling", disable=hidden), first):
            seed_scan_orders(network, derive_seed(self.order_seed, "order", step))
            output = self._predict(network, image, timestep, context, kwargs).to(dtype)
            if isinstance(self.scheduler, RespacedDDPMScheduler):
                last = step + 1 == len(timesteps)
                noise = None if last else per_sample_randn(generators, shape[1:], device, dtype)
                image, _ = self.scheduler.step(output, timestep, image, noise=noise)
            else:
                image, _ = self.scheduler.step(output[:, : shape[1]], timestep, image)  # without a learned variance
            finite = (output.isfinite().flatten(1).all(1) & image.isfinite().flatten(1).all(1)).tolist()
            if not all(finite):
                bad = [seed for seed, good in zip(seeds, finite, strict=True) if not good]
                raise ValueError(
                    f"sampling gave non-finite values at step {step + 1} of {len(timesteps)} (timestep {timestep}) "
                    f"for seed {', '.join(map(str, bad))}; check the network's weights"
                )
        return image

    def _predict(
        self,
        network: nn.Module,
        image: torch.Tensor,
        timestep: int,
        context: torch.Tensor | None,
        kwargs: dict[str, Any],
    ) -> torch.Tensor:
        """Return the network's output for one step, guided where guidance is asked for."""
        if self.guidance_scale == 1 or context is None:
            timesteps = torch.full((len(image),), timestep, device=image.device)
            return network(image, timesteps=timesteps, context=context, **kwargs)
        timesteps = torch.full((2 * len(image),), timestep, device=image.device)
        both = torch.cat([context, torch.full_like(context, _NO_CONDITION)])
        conditional, unconditional = network(
            torch.cat([image, image]), timesteps=timesteps, context=both, **_doubled(kwargs, len(image))
        ).chunk(2)
        guided = unconditional + self.guidance_scale * (conditional - unconditional)
        channels = image.shape[1]  # a learned variance behind them is not guided
        return torch.cat([guided[:, :channels], conditional[:, channels:]], dim=1)

    def _context(self, network: nn.Module, condition: torch.Tensor | None, inputs: torch.Tensor) -> torch.Tensor | None:
        """Return what the network gets as context: the condition, or labels (N,) from ``class_label``."""
        labelled = getattr(network, "num_class_embeds", None) is not None
        guided = self.guidance_scale != 1
        given = isinstance(condition, torch.Tensor) and condition.is_floating_point()
        if not labelled and (self.class_label is not None or (guided and not given)):
            asked = f"class_label={self.class_label}, guidance_scale={self.guidance_scale}"
            raise ValueError(
                f"{asked} needs a network with class labels; {type(network).__name__}.num_class_embeds is None "
                "(guidance without labels needs a floating-point condition)"
            )
        if given and guided and not labelled and len(condition) != len(inputs):
            raise ValueError(f"condition must have {len(inputs)} rows, one for each image, got {len(condition)}")
        if condition is None and self.class_label is not None:
            condition = torch.full((len(inputs),), self.class_label, device=inputs.device)
        if condition is None:
            if guided:
                raise ValueError(f"guidance_scale={self.guidance_scale} needs labels: give class_label or condition")
            return None
        if labelled:
            condition = torch.as_tensor(condition, device=inputs.device).long()
            if condition.shape != (len(inputs),):
                raise ValueError(f"labels must have shape ({len(inputs)},), got {tuple(condition.shape)}")
            if int(condition.max()) >= network.num_class_embeds or int(condition.min()) < _NO_CONDITION:
                allowed = f"[0, {network.num_class_embeds}), or {_NO_CONDITION} for none"
                raise ValueError(f"labels must be in {allowed}, got {condition.tolist()}")
        return condition

    def _checked_steps(self, steps: int) -> int:
        most = self.scheduler.num_train_timesteps
        if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= most:
            allowed = f"an integer from 1 to {most}, the training timesteps"
            raise ValueError(f"num_inference_steps must be {allowed}, got {steps!r}")
        exact = isinstance(self.scheduler, (RespacedDDPMScheduler, RespacedDDIMScheduler))
        if not exact and most % steps:
            warnings.warn(
                f"MONAI's DDIMScheduler leaves noise in the image where num_inference_steps ({steps}) does not divide "
                f"the training timesteps ({most}); RespacedDDIMScheduler does not",
                stacklevel=3,
            )
        return steps
