"""Where sampling starts: at pure noise, or at a noised image, which gives variants of it (SDEdit)."""

from __future__ import annotations

import torch
from monai.networks.schedulers import Scheduler

from ..utils import plain_tensor

__all__ = ["checked_strength", "skipped_steps", "start_of_sampling"]


def checked_strength(strength: float | None) -> float | None:
    """
    Return a strength below 1 as it is, and None where sampling starts from pure noise: for None and 1.

    Raises:
        ValueError: when it is not a number above 0 and up to 1.

    Example:
        >>> checked_strength(0.5), checked_strength(1), checked_strength(None)
        (0.5, None, None)
    """
    if strength is None:
        return None
    is_number = isinstance(strength, (int, float)) and not isinstance(strength, bool)
    if not is_number or not 0 < strength <= 1:
        raise ValueError(f"strength must be a number above 0 and up to 1, or None, got {strength!r}")
    return float(strength) if strength < 1 else None


def skipped_steps(num_steps: int, strength: float | None) -> int:
    """
    Return how many of the first steps are left out: the nearest to ``1 - strength`` of them, and never all.

    Example:
        >>> skipped_steps(50, 0.2), skipped_steps(50, None), skipped_steps(50, 0.001)
        (40, 0, 49)
    """
    return 0 if strength is None else num_steps - max(1, round(strength * num_steps))


def start_of_sampling(
    inputs: torch.Tensor, noise: torch.Tensor, scheduler: Scheduler, strength: float | None
) -> tuple[torch.Tensor, int]:
    """
    Return the image that sampling starts from, and how many of the scheduler's steps it is past.

    Below strength 1 that is the input with the noise of the first timestep of the remaining steps (Meng et al.,
    "SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations", 2022).

    Args:
        inputs: images (N, C, H, W[, D]) in the range the network was trained on; looked at for a strength below 1 only.
        noise: standard normal noise of that shape.
        scheduler: its timesteps are set.
        strength: see `checked_strength`.

    Raises:
        ValueError: when inputs that are looked at are not finite.

    Example:
        >>> from monai_mamba_gen.networks.schedulers import RespacedDDIMScheduler
        >>> scheduler = RespacedDDIMScheduler(1000)
        >>> scheduler.set_timesteps(10)
        >>> start_of_sampling(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), scheduler, 0.3)[1]
        7
    """
    skipped = skipped_steps(len(scheduler.timesteps), strength)
    if strength is None:
        return noise, 0
    image = plain_tensor(inputs).to(noise)
    if not bool(image.isfinite().all()):
        raise ValueError(f"strength={strength} starts from the inputs, and some of their values are not finite")
    # Not `scheduler.add_noise`: MONAI's casts the schedule in place to the dtype of the image.
    signal = float(scheduler.alphas_cumprod[int(scheduler.timesteps[skipped])])
    return signal**0.5 * image + (1 - signal) ** 0.5 * noise, skipped
