"""Volumes cut into slices for two-dimensional networks, and put together again."""

from __future__ import annotations

import torch

from ..utils import plain_tensor

__all__ = ["VolumeSlices"]


class VolumeSlices:
    """
    The slices of a batch of volumes; a slice's place is (number of its volume, level).

    Args:
        inputs: volumes (N, 1, H, W, D), or slices (N, 1, H, W), which count as volumes of one level.
        mask: of the inputs' shape, above 0 inside; None: all is inside.
        slice_axis: spatial axis of volumes to cut along.
        position: (N,), where slices lie in their volume, from 0 to 1; default 0.

    Raises:
        ValueError: when shapes do not fit.

    Example:
        >>> volumes = VolumeSlices(torch.zeros(2, 1, 8, 8, 5), None, -1)
        >>> [len(places) for places in volumes.batches(4)], volumes.take([(0, 1), (1, 4)]).shape
        ([4, 4, 2], torch.Size([2, 1, 8, 8]))
    """

    def __init__(
        self,
        inputs: torch.Tensor,
        mask: torch.Tensor | None,
        slice_axis: int = -1,
        position: torch.Tensor | None = None,
    ) -> None:
        if inputs.ndim not in (4, 5) or inputs.shape[1] != 1:
            raise ValueError(f"inputs must be (N, 1, H, W, D) or (N, 1, H, W), got {tuple(inputs.shape)}")
        if mask is not None and mask.shape != inputs.shape:
            raise ValueError(f"mask must have the inputs' shape {tuple(inputs.shape)}, got {tuple(mask.shape)}")
        if position is not None and (inputs.ndim == 5 or tuple(position.shape) != (len(inputs),)):
            raise ValueError(
                f"position is for slices (N, 1, H, W) and must be (N,), got {tuple(position.shape)} for inputs "
                f"{tuple(inputs.shape)}"
            )
        source = plain_tensor(inputs)
        self._flat = inputs.ndim == 4
        self._axis = slice_axis + 2 if slice_axis >= 0 else slice_axis
        self._source = self._levels(source if source.is_floating_point() else source.float())
        self._position = position
        self.mask = None if mask is None else (plain_tensor(mask) > 0).to(source.device)

    def _levels(self, volume: torch.Tensor) -> torch.Tensor:
        """Return (N, D, 1, H, W)."""
        return (volume.unsqueeze(-1) if self._flat else volume).movedim(-1 if self._flat else self._axis, 1)

    def empty(self, value: float) -> torch.Tensor:
        """Return slices (N, D, 1, H, W) of one value, to `put` into."""
        return torch.full_like(self._source, value)

    def batches(self, size: int) -> list[list[tuple[int, int]]]:
        """Return the places of all slices that have something inside the mask, ``size`` at a time."""
        if self.mask is None:
            inside = torch.ones(self._source.shape[:2], dtype=torch.bool)
        else:
            inside = self._levels(self.mask).flatten(2).any(2)
        places = [(int(volume), int(level)) for volume, level in inside.nonzero().tolist()]
        return [places[start : start + size] for start in range(0, len(places), size)]

    def take(self, places: list[tuple[int, int]]) -> torch.Tensor:
        """Return the source slices at some places, (B, 1, H, W)."""
        return torch.stack([self._source[place] for place in places])

    def put(self, stack: torch.Tensor, places: list[tuple[int, int]], slices: torch.Tensor) -> None:
        """Write slices (B, 1, H, W) to their places in a stack of `empty`."""
        for place, each in zip(places, slices, strict=True):
            stack[place] = each

    def positions(self, places: list[tuple[int, int]]) -> torch.Tensor:
        """Return where slices lie in their volume, (B,) from 0 to 1."""
        if self._position is not None:
            values = [float(self._position[volume]) for volume, _ in places]
        else:
            last = max(self._source.shape[1] - 1, 1)
            values = [level / last for _, level in places]
        return torch.tensor(values, dtype=self._source.dtype, device=self._source.device)

    def restored(self, stack: torch.Tensor, outside: float) -> torch.Tensor:
        """Return a stack in the shape of the inputs, with one value outside the mask."""
        volume = stack.movedim(1, -1 if self._flat else self._axis)
        volume = volume.squeeze(-1) if self._flat else volume
        return volume.contiguous() if self.mask is None else volume.masked_fill(~self.mask, outside)
