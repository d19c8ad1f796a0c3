"""Not a test: run by test_cine_report.py in a process of its own, which imports once and then forks into two."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import torch
import torch.distributed as dist
from ignite.engine import Engine

from monai_mamba_gen.handlers import CineReportHandler

PHASES = torch.tensor([0.0, 0.5, 1.0, 0.5])


def run(folder: str, seeds: list[tuple[str, int]]) -> dict:
    """Report on generated beats whose size hangs on the seed."""
    inferer = SimpleNamespace(result={})

    def step(engine, batch):
        field = torch.zeros(1, 4, 3, 6, 6, 4)
        field[:, :, 0] = int(batch["seed"][0]) * PHASES[:, None, None, None]
        frames = torch.full((1, 4, 6, 6, 4), int(batch["seed"][0]) / 10)
        inferer.result = {"frames": frames, "displacement": field, "phases": PHASES, "mode": "generation"}

    label = torch.zeros(1, 1, 6, 6, 4)
    label[..., :3, 1:4, :] = 3
    engine = Engine(step)
    CineReportHandler(folder, inferer, "toy", "none", compared_seeds=3).attach(engine)
    batches = [{"patient": [patient], "seed": torch.tensor([seed]), "label": label} for patient, seed in seeds]
    return {key: value for key, value in engine.run(batches).metrics.items() if value == value}


def main(folder: str) -> None:
    torch.set_num_threads(1)
    children = []
    # Patient b is with one process only, one beat is made twice.
    shares = ([("a", 3), ("a", 0)], [("a", 1), ("b", 2), ("b", 1), ("a", 0), ("a", 2)])
    for rank in range(2):
        if (child := os.fork()) == 0:
            dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
            torch.save(run(f"{folder}/two", shares[rank]), f"{folder}/rank{rank}.pt")
            dist.barrier()
            os._exit(0)
        children.append(child)
    sys.exit(any(os.waitpid(child, 0)[1] for child in children))


if __name__ == "__main__":
    main(sys.argv[1])
