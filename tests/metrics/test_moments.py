import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from monai_mamba_gen.metrics import FeatureMoments, frechet_distance
from monai_mamba_gen.utils.errors import DataError


def features_of(n, dim=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=generator)
    return 3 + torch.randn(n, dim, generator=generator) @ mixing


def test_mean_and_cov_are_those_of_numpy():
    features = features_of(101).double()
    moments = FeatureMoments(16).update(features[:40]).update(features[40:])
    np.testing.assert_allclose(moments.mean, features.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.cov, np.cov(features.numpy(), rowvar=False), rtol=1e-10, atol=1e-10)
    assert torch.equal(moments.cov, moments.cov.T)


def test_large_offset_keeps_the_covariance():
    features = features_of(200).double()
    shifted = FeatureMoments(16).update(features + 1000)
    np.testing.assert_allclose(shifted.cov, FeatureMoments(16).update(features).cov, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_merge_over_pieces_gives_the_distance_of_the_whole(pieces):
    features, other = features_of(501), FeatureMoments(16).update(features_of(400, seed=1))
    whole = frechet_distance(FeatureMoments(16).update(features), other)
    merged = FeatureMoments(16)
    for piece in range(pieces):
        merged = merged + FeatureMoments(16).update(features[piece::pieces])
    assert merged.n == 501
    assert frechet_distance(merged, other) == pytest.approx(whole, rel=1e-10)


def test_merge_leaves_its_operands_alone():
    a, b = FeatureMoments(2).update(torch.ones(3, 2)), FeatureMoments(2).update(torch.zeros(4, 2))
    merged = a.merge(b)
    merged.update(torch.ones(1, 2))
    assert (a.n, b.n, merged.n) == (3, 4, 8)
    assert a.total.tolist() == [3, 3]
    alone = a.all_reduce().update(torch.ones(1, 2))
    assert (a.n, alone.n) == (3, 4)


def test_save_and_load(tmp_path):
    moments = FeatureMoments(16).update(features_of(33))
    path = tmp_path / "new" / "real.npz"
    moments.save(path, extractor="dummy", preprocessing="none", n_patients=3)
    loaded = FeatureMoments.load(path)
    assert loaded.n == 33
    assert torch.equal(loaded.total, moments.total)
    assert torch.equal(loaded.outer, moments.outer)
    assert loaded.description == {"extractor": "dummy", "preprocessing": "none", "n_patients": 3}
    assert [file.name for file in path.parent.iterdir()] == ["real.npz"]


def test_load_refuses_other_files(tmp_path):
    with pytest.raises(DataError, match=r"missing\.npz"):
        FeatureMoments.load(tmp_path / "missing.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(DataError, match=r"text\.npz"):
        FeatureMoments.load(tmp_path / "text.npz")
    np.savez(tmp_path / "pickle.npz", n=np.array([object()], dtype=object), total=1, outer=1, description="{}")
    with pytest.raises(DataError, match=r"pickle\.npz"):
        FeatureMoments.load(tmp_path / "pickle.npz")
    np.savez(tmp_path / "odd.npz", n=2, total=np.zeros(3), outer=np.zeros((2, 2)), description=json.dumps({}))
    with pytest.raises(DataError, match="do not belong together"):
        FeatureMoments.load(tmp_path / "odd.npz")


def test_bad_arguments():
    for dim in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="dim must be a positive integer"):
            FeatureMoments(dim)
    with pytest.raises(ValueError, match=r"features must be \(N, 4\)"):
        FeatureMoments(4).update(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="1 NaN or infinite"):
        FeatureMoments(2).update(torch.tensor([[1.0, float("nan")]]))
    with pytest.raises(ValueError, match="must have dim 4"):
        FeatureMoments(4).merge(FeatureMoments(3))
    with pytest.raises(ValueError, match="at least 1"):
        _ = FeatureMoments(2).mean
    with pytest.raises(ValueError, match="at least 2"):
        _ = FeatureMoments(2).update(torch.ones(1, 2)).cov


WORKER = textwrap.dedent(
    """
    import sys
    import ignite.distributed as idist
    import torch
    from monai_mamba_gen.metrics import FeatureCollector, FeatureMoments, RandomConvFeatures, kernel_distance

    rank, folder = int(sys.argv[1]), sys.argv[2]
    features = torch.randn(501, 8, generator=torch.Generator().manual_seed(0))
    images = torch.rand(13, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    for world_size in (3, 2, 1):
        if rank >= world_size:
            break
        if world_size > 1:
            idist.initialize("gloo", init_method=f"file://{folder}/store{world_size}", rank=rank,
                             world_size=world_size)
        moments = FeatureMoments(8).update(features[rank::world_size]).all_reduce()
        collector = FeatureCollector(RandomConvFeatures(4), "synthetic", keep=5, batch_size=3)
        if rank < 2:  # a third process has no image at all
            collector.add(images[rank::min(world_size, 2)])
        gathered, kept = collector.gather(), collector.gather_images()
        if rank == 0:
            kernel = kernel_distance(gathered.features, torch.zeros(9, 4), subsets=5)
            torch.save({"n": moments.n, "total": moments.total, "outer": moments.outer, "keys": gathered.keys,
                        "features": gathered.features, "kept": kept, "kernel": kernel.mean,
                        "collected": gathered.moments.outer}, f"{folder}/result{world_size}.pt")
        idist.finalize()
    """
)


def test_two_and_three_processes_give_the_result_of_one(tmp_path):
    command = [sys.executable, "-c", WORKER]
    workers = [subprocess.Popen([*command, str(rank), str(tmp_path)]) for rank in range(3)]
    assert [worker.wait(timeout=300) for worker in workers] == [0, 0, 0]
    one, two, three = (torch.load(tmp_path / f"result{size}.pt", weights_only=True) for size in (1, 2, 3))
    assert len(one["features"]) == 13
    other = FeatureMoments(8).update(features_of(300, dim=8))
    for many in (two, three):
        assert one["n"] == many["n"] == 501
        assert torch.equal(one["keys"], many["keys"])
        assert torch.equal(one["kept"], many["kept"])
        torch.testing.assert_close(one["collected"], many["collected"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(one["features"], many["features"], rtol=1e-5, atol=1e-6)
        assert one["kernel"] == pytest.approx(many["kernel"], rel=1e-5)
        distances = []
        for result in (one, many):
            moments = FeatureMoments(8)
            moments.n, moments.total, moments.outer = result["n"], result["total"], result["outer"]
            distances.append(frechet_distance(moments, other))
        assert distances[0] == pytest.approx(distances[1], rel=1e-10)
