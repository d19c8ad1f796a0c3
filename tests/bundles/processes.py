"""
Not a test: run by test_processes.py, imports once and forks into one, two and three processes.

Each process generates and scores with the bundle's own configs, in the environment that torchrun would give it.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import warnings


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def work(job: dict, world_size: int) -> None:
    import monai.bundle
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    job["bundle_root"] = job["bundle_root"].format(world=world_size)
    monai.bundle.run(logging_file=False, **job)
    if torch.distributed.is_initialized():
        raise RuntimeError("the config's finalize has to leave the process group")


def fork(job: dict, rank: int, world_size: int, port: int) -> int:
    """Start one process and return its id."""
    if child := os.fork():
        return child
    if world_size > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        work(job, world_size)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        os._exit(1)
    os._exit(0)


def main(jobs: list[dict]) -> int:
    import monai.bundle  # noqa: F401

    import monai_mamba_gen.handlers
    import monai_mamba_gen.metrics  # noqa: F401

    logging.disable(logging.WARNING)
    for world_size in (1, 2, 3):
        for number, job in enumerate(jobs):
            port = free_port()
            children = [fork(job, rank, world_size, port) for rank in range(world_size)]
            codes = [os.waitpid(child, 0)[1] for child in children]
            if any(codes):
                print(f"job {number} by {world_size} processes failed", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
