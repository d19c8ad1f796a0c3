"""Data set and batches of a generator without input: seeds instead of images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from torch.utils.data import Dataset, Sampler

from ..utils import get_rank, get_world_size
from .manifest import finished_seeds

__all__ = ["SeedBatchSampler", "SeedDataset", "shard_batches"]


class SeedDataset(Dataset):
    """
    One item for each image to generate: ``{"image": zeros with the image's geometry, "seed": its seed}``.

    Args:
        seeds: number of images, or their seeds.
        spatial_size: size in pixels, (H, W) or (H, W, D).
        channels: number of channels.
        spacing: mm between pixels, one number for each spatial dimension; default 1.
        first_seed: the first seed where ``seeds`` is a number.

    Raises:
        ValueError: when an argument is out of range, or seeds repeat.

    Example:
        >>> item = SeedDataset(3, (16, 16), spacing=(1.5, 1.5), first_seed=10)[2]
        >>> item["seed"], tuple(item["image"].shape)
        (12, (1, 16, 16))
    """

    def __init__(
        self,
        seeds: int | Sequence[int],
        spatial_size: Sequence[int],
        channels: int = 1,
        spacing: Sequence[float] | None = None,
        first_seed: int = 0,
    ) -> None:
        super().__init__()
        self.seeds = list(range(first_seed, first_seed + seeds)) if isinstance(seeds, int) else list(map(int, seeds))
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must be a number above 0 or a list of different seeds, got {seeds!r}")
        if len(spatial_size) not in (2, 3) or min(spatial_size) < 1:
            raise ValueError(f"spatial_size must be two or three sizes above 0, got {spatial_size!r}")
        spacing = [1.0] * len(spatial_size) if spacing is None else list(spacing)
        if len(spacing) != len(spatial_size) or min(spacing) <= 0:
            raise ValueError(f"spacing must be {len(spatial_size)} numbers above 0, got {spacing!r}")
        if channels < 1:
            raise ValueError(f"channels must be at least 1, got {channels}")
        self.shape = (channels, *spatial_size)
        self.affine = torch.eye(4, dtype=torch.float64)
        for axis, distance in enumerate(spacing):
            self.affine[axis, axis] = distance

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": MetaTensor(torch.zeros(self.shape), affine=self.affine.clone()), "seed": self.seeds[index]}


def shard_batches(num: int, batch_size: int, rank: int = 0, world_size: int = 1) -> list[list[int]]:
    """
    Cut ``range(num)`` into batches and return those of one process.

    The batches are cut before they are dealt to the processes. Who shares a batch, hence every bit of the result, is
    then the same for any number of processes.

    Args:
        num: number of items.
        batch_size: items in a batch; the last may be smaller.
        rank: this process.
        world_size: number of processes.

    Raises:
        ValueError: when an argument is out of range.

    Example:
        >>> shard_batches(5, 2, rank=0, world_size=2)
        [[0, 1], [4]]
    """
    if num < 0 or batch_size < 1 or not 0 <= rank < world_size:
        raise ValueError(
            "num must be at least 0, batch_size at least 1 and rank in [0, world_size), got "
            f"num={num}, batch_size={batch_size}, rank={rank}, world_size={world_size}"
        )
    batches = [list(range(start, min(start + batch_size, num))) for start in range(0, num, batch_size)]
    return batches[rank::world_size]


class SeedBatchSampler(Sampler[list[int]]):
    """
    The batches of a `SeedDataset` that this process has to generate; for a DataLoader's ``batch_sampler``.

    Batches whose images are all finished are left out, so that a killed run continues. A batch with some of them is
    generated as a whole, which gives the same files again.

    Args:
        dataset: the seeds, or another data set with the attribute ``seeds``, such as `SyntheticFolderDataset`.
        batch_size: images in a batch.
        output_dir: folder of a run to continue (see `SyntheticImageSaver`); default: nothing is left out.
        rank: this process; default that of ``torch.distributed``.
        world_size: number of processes; default that of ``torch.distributed``.

    Raises:
        ValueError: when there are fewer batches than processes, which `SyntheticImageSaver` can cope with but engines
            that score together cannot, so only without ``output_dir``; or when an argument is out of range.

    Example:
        >>> list(SeedBatchSampler(SeedDataset(5, (16, 16)), batch_size=2))
        [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        dataset: SeedDataset,
        batch_size: int,
        output_dir: str | os.PathLike[str] | None = None,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        rank = get_rank() if rank is None else rank
        world_size = get_world_size() if world_size is None else world_size
        if output_dir is None and len(dataset) <= batch_size * (world_size - 1):
            raise ValueError(
                f"{len(dataset)} seeds in batches of batch_size {batch_size} leave some of the {world_size} processes "
                "without work, for which the others would wait for ever: lower batch_size or use fewer processes"
            )
        self.batches = shard_batches(len(dataset), batch_size, rank, world_size)
        if output_dir is not None:
            seeds = {dataset.seeds[index] for batch in self.batches for index in batch}
            finished = finished_seeds(output_dir, seeds)
            self.batches = [
                batch for batch in self.batches if not finished.issuperset(dataset.seeds[index] for index in batch)
            ]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)
