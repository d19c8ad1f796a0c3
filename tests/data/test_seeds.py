from __future__ import annotations

import hashlib

import pytest
import torch
from monai.data import DataLoader, MetaTensor

from monai_mamba_gen.data import SeedBatchSampler, SeedDataset, append_manifest, manifest_path, shard_batches


def test_dataset():
    dataset = SeedDataset(3, (8, 6), channels=2, spacing=(1.5, 2.0), first_seed=10)
    item = dataset[1]
    assert len(dataset) == 3 and item["seed"] == 11
    assert isinstance(item["image"], MetaTensor) and item["image"].shape == (2, 8, 6) and not item["image"].any()
    assert item["image"].affine.diag().tolist() == [1.5, 2.0, 1.0, 1.0]
    assert [SeedDataset([5, 3], (4, 4, 4))[index]["seed"] for index in range(2)] == [5, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seeds": 0}, "seeds"),
        ({"seeds": [1, 1]}, "seeds"),
        ({"spatial_size": (8,)}, "spatial_size"),
        ({"spacing": (1.0,)}, "spacing"),
        ({"spacing": (0.0, 1.0)}, "spacing"),
        ({"channels": 0}, "channels"),
    ],
)
def test_dataset_errors(arguments, message):
    with pytest.raises(ValueError, match=f"{message} must be"):
        SeedDataset(**{"seeds": 2, "spatial_size": (8, 8), **arguments})


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_batches_do_not_depend_on_the_world(world_size):
    shards = [shard_batches(17, 4, rank, world_size) for rank in range(world_size)]
    batches = sorted(batch for shard in shards for batch in shard)
    assert batches == shard_batches(17, 4) and [len(batch) for batch in batches] == [4, 4, 4, 4, 1]
    assert sum(batches, []) == list(range(17))


def test_shard_errors():
    for arguments in ((5, 0), (5, 2, 2, 2), (-1, 2)):
        with pytest.raises(ValueError, match="batch_size at least 1"):
            shard_batches(*arguments)


def test_sampler_leaves_out_finished_batches(tmp_path):
    dataset = SeedDataset(6, (4, 4), first_seed=100)
    records = []
    for seed in (100, 101, 102, 104, 105):
        (tmp_path / f"{seed}").write_bytes(b"image %d" % seed)
        digest = hashlib.sha256(b"image %d" % seed).hexdigest()
        records.append({"seed": seed, "file": f"{seed}", "sha256": digest})
    append_manifest(manifest_path(tmp_path), records)
    assert list(SeedBatchSampler(dataset, 2, tmp_path)) == [[2, 3]]
    (tmp_path / "104").write_bytes(b"damaged")
    (tmp_path / "101").unlink()
    sampler = SeedBatchSampler(dataset, 2, tmp_path)
    assert list(sampler) == [[0, 1], [2, 3], [4, 5]] and len(sampler) == 3
    assert list(SeedBatchSampler(dataset, 2, tmp_path / "new", rank=1, world_size=2)) == [[2, 3]]


def test_loader():
    dataset = SeedDataset(5, (4, 4))
    batches = list(DataLoader(dataset, batch_sampler=SeedBatchSampler(dataset, 2)))
    assert [batch["seed"].tolist() for batch in batches] == [[0, 1], [2, 3], [4]]
    assert batches[0]["seed"].dtype == torch.int64 and batches[0]["image"].shape == (2, 1, 4, 4)


def test_processes_without_work_are_refused_where_nobody_waits_for_them(tmp_path) -> None:
    dataset = SeedDataset(4, (8, 8))
    with pytest.raises(ValueError, match="4 seeds in batches of batch_size 2 leave some of the 3 processes"):
        SeedBatchSampler(dataset, 2, rank=0, world_size=3)
    assert list(SeedBatchSampler(dataset, 2, rank=1, world_size=2)) == [[2, 3]]
    assert list(SeedBatchSampler(dataset, 2, output_dir=tmp_path, rank=2, world_size=3)) == []
