from __future__ import annotations

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from monai_mamba_gen.utils import (
    DataError,
    batch_size_per_process,
    destroy_process_group,
    distributed,
    gather_rows,
    get_rank,
    get_world_size,
    init_process_group,
    is_main_process,
    local_device,
)


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


def test_nothing_happens_without_torchrun(monkeypatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    init_process_group()
    assert not dist.is_initialized()
    destroy_process_group()
    assert local_device() == (torch.device("cuda:0") if torch.cuda.is_available() else torch.device("cpu"))


@pytest.mark.parametrize(("gpus", "backend"), [(True, "nccl"), (False, "gloo")])
def test_torchruns_environment_chooses_device_and_backend(monkeypatch, gpus, backend) -> None:
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(dist, "init_process_group", chosen.append)
    init_process_group()
    # the number among the GPUs of this machine, not the rank among all processes
    assert chosen == ([torch.device("cuda:1"), backend] if gpus else [backend])


def test_batches_are_shared_out() -> None:
    assert batch_size_per_process(6) == 6
    dist.init_process_group("fake", rank=1, world_size=2, store=FakeStore())
    try:
        assert batch_size_per_process(6, range(6)) == 3
        with pytest.raises(ValueError, match="batch_size must be a positive multiple of the 2 processes, got 5"):
            batch_size_per_process(5)
    finally:
        destroy_process_group()
    assert not dist.is_initialized()


@pytest.mark.parametrize("value", [0, -2, 2.5, "4", True])
def test_batch_size_must_be_a_positive_integer(value) -> None:
    with pytest.raises(ValueError, match="batch_size must be a positive integer"):
        batch_size_per_process(value)


def test_data_smaller_than_a_batch() -> None:
    with pytest.raises(DataError, match="5 images, not one batch of batch_size 6"):
        batch_size_per_process(6, range(5))


def test_processes_that_do_not_know_of_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DataError, match="torchrun started 2 processes .* add configs/multi_gpu_train.json"):
        batch_size_per_process(4)


def test_a_longer_wait_for_the_others(monkeypatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    given = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **options: given.update(options))
    init_process_group(timeout_hours=1.5)
    assert given == {"timeout": timedelta(minutes=90)}
    with pytest.raises(ValueError, match="timeout_hours must be None or above 0, got 0"):
        init_process_group(timeout_hours=0)


def test_rows_come_back_on_the_cpu(monkeypatch) -> None:
    """A GPU backend gathers on the GPU; what is gathered is sorted and saved on the CPU."""

    class OnTheGpu:
        def cpu(self):
            return torch.tensor([1, 2])

    monkeypatch.setattr(distributed, "evenly_divisible_all_gather", lambda rows, concat: OnTheGpu())
    assert gather_rows(torch.tensor([1])).tolist() == [1, 2]
