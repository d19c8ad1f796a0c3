"""Diffusion times in all the forms that networks are given them."""

from __future__ import annotations

import torch

__all__ = ["expand_timesteps"]


def expand_timesteps(timesteps: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    """
    Return one diffusion time for each sample of a batch.

    Args:
        timesteps: (N,), (1,) or a number, integer or float; None: zeros.
        x: the batch, (N, ...).

    Returns:
        (N,) on the device of x.

    Raises:
        ValueError: when the shape is another.

    Example:
        >>> expand_timesteps(torch.tensor([7]), torch.zeros(3, 1, 8, 8)).tolist()
        [7, 7, 7]
    """
    batch = x.shape[0]
    if timesteps is None:
        timesteps = torch.zeros(1, device=x.device)
    timesteps = torch.as_tensor(timesteps, device=x.device).reshape(-1)
    if timesteps.shape[0] not in (1, batch):
        raise ValueError(f"timesteps must be ({batch},) or (1,), got {tuple(timesteps.shape)}")
    return timesteps.expand(batch)
