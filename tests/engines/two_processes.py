"""Not a test: run by test_prepare_batch.py in a process of its own, which imports once and then forks into two."""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist
from monai.inferers import DiffusionInferer
from monai.networks.schedulers import DDPMScheduler
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from monai_mamba_gen.engines import SeededDiffusionPrepareBatch

STEPS, BATCH = 20, 4


class Denoiser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 1, 3, padding=1)

    def forward(self, x, timesteps=None, context=None):
        return self.last(torch.tanh(self.first(x) + timesteps.reshape(-1, 1, 1, 1) / 100))


def train(rank: int, world: int) -> dict:
    """Train on rows ``rank::world`` of each global batch; return what was drawn and learnt."""
    torch.manual_seed(0)
    images = torch.randn(STEPS, BATCH, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    network = Denoiser()
    wrapped = DistributedDataParallel(network) if world > 1 else network
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    inferer = DiffusionInferer(DDPMScheduler(num_train_timesteps=100))
    prepare_batch = SeededDiffusionPrepareBatch(100, "label", seed=5, condition_dropout=0.5)
    drawn = []
    for step in range(1, STEPS + 1):
        prepare_batch.set_step(step)
        batch = {"image": images[step - 1, rank::world], "label": torch.arange(BATCH)[rank::world]}
        inputs, target, _, kwargs = prepare_batch(batch)
        drawn.append({"noise": target, "timesteps": kwargs["timesteps"], "condition": kwargs.pop("condition")})
        optimizer.zero_grad()
        nn.functional.mse_loss(inferer(inputs, wrapped, **kwargs), target).backward()
        optimizer.step()
    return {"drawn": drawn, "weights": {name: value.detach() for name, value in network.named_parameters()}}


def main(folder: str) -> None:
    torch.set_num_threads(1)
    children = []
    for rank in range(2):
        if (child := os.fork()) == 0:
            dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
            torch.save(train(rank, 2), f"{folder}/rank{rank}.pt")
            dist.barrier()
            os._exit(0)
        children.append(child)
    sys.exit(any(os.waitpid(child, 0)[1] for child in children))


if __name__ == "__main__":
    main(sys.argv[1])
