from __future__ import annotations

import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from monai_mamba_gen.utils import get_rank, get_world_size, is_main_process


def test_without_a_process_group() -> None:
    assert not dist.is_initialized()
    assert (get_rank(), get_world_size(), is_main_process()) == (0, 1, True)


def test_with_a_process_group() -> None:
    # the second of two processes, without the first: PyTorch's own stand-in for a backend
    dist.init_process_group("fake", rank=1, world_size=2, store=FakeStore())
    try:
        assert (get_rank(), get_world_size(), is_main_process()) == (1, 2, False)
    finally:
        dist.destroy_process_group()
    assert is_main_process()
