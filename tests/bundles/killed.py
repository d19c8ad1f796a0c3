"""
Not a test: run by test_scale_out.py, imports once and forks into the processes of one step after the other.

A step is a dictionary: ``jobs``, what `processes.work` takes, all at once; ``world``, processes of each job; and for
jobs to be killed ``folder``, which they write to, and ``kill``: after that many more files all processes get SIGKILL.
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import sys
import time
from pathlib import Path

from processes import fork, free_port

LIMIT = 120  # seconds that a step may take


def written(folder: str) -> int:
    return sum(1 for path in Path(folder).glob("[!.m]*") if path.is_file()) if folder else 0


def run(step: dict) -> list[int]:
    """Run a step and return the exit codes of its processes, -9 for one that was killed."""
    before, children = written(step.get("folder", "")), []
    for job in step["jobs"]:
        port = free_port()
        children += [fork(job, rank, step["world"], port) for rank in range(step["world"])]
    codes: dict[int, int] = {}
    deadline = time.monotonic() + LIMIT
    while len(codes) < len(children):
        killed = step.get("kill") is not None and written(step["folder"]) >= before + step["kill"]
        if killed:
            time.sleep(random.uniform(0, 0.05))  # a moment of its own every time
        alive = [child for child in children if child not in codes]
        for child in alive if killed or time.monotonic() > deadline else ():
            os.kill(child, signal.SIGKILL)  # all of them before one is waited for
        for child in alive:
            ended, status = os.waitpid(child, 0 if killed else os.WNOHANG)
            if ended:
                codes[child] = os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    return [codes[child] for child in children]


def main(steps: list[dict]) -> int:
    import monai.bundle  # noqa: F401

    import monai_mamba_gen.handlers
    import monai_mamba_gen.metrics  # noqa: F401

    logging.disable(logging.WARNING)
    for number, step in enumerate(steps):
        codes = run(step)
        killed = step.get("kill") is not None
        # a process may see that its neighbour is gone, and fail, before it is killed itself
        good = -signal.SIGKILL in codes and set(codes) <= {-signal.SIGKILL, 1} if killed else set(codes) == {0}
        if not good:
            print(f"step {number}: exit codes {codes}, killed: {killed}: {json.dumps(step)[:200]}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
