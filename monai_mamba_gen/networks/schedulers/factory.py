"""Samplers by name, for configs that let the user choose one."""

from __future__ import annotations

from monai.networks.schedulers import Scheduler

from .respaced_ddim import RespacedDDIMScheduler
from .respaced_ddpm import RespacedDDPMScheduler

__all__ = ["sampling_scheduler"]

_SAMPLERS = {"ddim": RespacedDDIMScheduler, "ddpm": RespacedDDPMScheduler}


def sampling_scheduler(name: str, **arguments) -> Scheduler:
    """
    Build the scheduler of a named sampler.

    Args:
        name: ``"ddim"`` (deterministic given the starting noise) or ``"ddpm"`` (ancestral).
        arguments: of the scheduler: ``num_train_timesteps, schedule, prediction_type`` and the schedule's own.

    Raises:
        ValueError: when there is no such sampler.

    Example:
        >>> type(sampling_scheduler("ddim", num_train_timesteps=1000)).__name__
        'RespacedDDIMScheduler'
    """
    if name not in _SAMPLERS:
        raise ValueError(f"sampler must be one of {sorted(_SAMPLERS)}, got {name!r}")
    return _SAMPLERS[name](**arguments)
