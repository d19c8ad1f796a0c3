"""Diffusion schedulers, where MONAI's are wrong; for all else use `monai.networks.schedulers`."""

from __future__ import annotations

from .factory import sampling_scheduler
from .respaced_ddim import RespacedDDIMScheduler
from .respaced_ddpm import RespacedDDPMScheduler

__all__ = ["RespacedDDIMScheduler", "RespacedDDPMScheduler", "sampling_scheduler"]
