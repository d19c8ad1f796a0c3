from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from monai_mamba_gen.utils import keep_freed_memory

ROOT = Path(__file__).resolve().parents[2]
# Four tensors of 20 MB at a time, 20,000 pages. How many glibc gives back by itself differs from process to process.
SCRIPT = """
import resource, torch
from monai_mamba_gen.utils import keep_freed_memory

print(keep_freed_memory() if {keep} else None)
torch.set_num_threads(1)


def use():
    a = torch.ones(5 * 2**20)
    b = a + 1
    c = a + b
    return (c + b).sum()


for _ in range(5):
    use()
counts = []
for _ in range(15):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    use()
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sorted(counts)[7])  # the system may take pages away now and then
"""
needs_glibc = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not os.confstr("CS_GNU_LIBC_VERSION"), reason="needs glibc"
)


def run(keep=True, **variables):
    kept = {name: value for name, value in os.environ.items() if "MALLOC" not in name and name != "LD_PRELOAD"}
    environment = kept | {"PYTHONPATH": str(ROOT)} | variables
    output = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(keep=keep)], env=environment, capture_output=True, text=True, check=True
    )
    done, faults = output.stdout.split()
    return done == "True", int(faults)


@needs_glibc
def test_freed_memory_is_used_again():
    done, faults = run()
    assert done and faults < 1000 < run(keep=False, MALLOC_MMAP_THRESHOLD_="131072")[1], "a system call for each tensor"


@needs_glibc
def test_what_the_user_chose_stays():
    assert run(MALLOC_TRIM_THRESHOLD_="131072")[0] is False


def test_another_system(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
