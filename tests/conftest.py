"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

# Two workers of pytest-xdist share two cores; this holds for the processes that tests start, too.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; tests that ask for it are skipped where there is none."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no folder shared/data beside the checkout")
    return SHARED_DATA
