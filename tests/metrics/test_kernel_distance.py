import math

import pytest
import torch

from monai_mamba_gen.metrics import kernel_distance


def brute_force(a, b, degree=3):
    """The U-statistic as Binkowski et al. (2018) write it, one pair at a time."""

    def kernel(x, y):
        return (float(x @ y) / len(x) + 1) ** degree

    m, n = len(a), len(b)
    within_a = sum(kernel(a[i], a[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    within_b = sum(kernel(b[i], b[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return within_a + within_b - 2 * sum(kernel(x, y) for x in a for y in b) / (m * n)


def randn(n, dim=5, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_whole_sets_equal_brute_force(degree):
    a, b = randn(9), randn(9, seed=1) + 0.3
    result = kernel_distance(a, b, degree=degree, subset_size=9)
    assert result.mean == pytest.approx(brute_force(a, b, degree), rel=1e-12)
    assert (result.subsets, result.subset_size) == (1, 9)
    assert math.isnan(result.standard_error)


def test_all_subsets_average_to_brute_force():
    """The mean over many subsets goes to the full statistic, whose terms they sample evenly."""
    a, b = randn(12), 0.5 * randn(10, seed=1) + 0.5
    result = kernel_distance(a, b, subsets=4000, subset_size=5)
    assert result.mean == pytest.approx(brute_force(a, b), abs=4 * result.standard_error)
    assert result.standard_error < 0.05


def test_small_blocks_equal_the_whole_matrix(monkeypatch):
    a, b = randn(40), randn(50, seed=1)
    module = __import__("sys").modules["monai_mamba_gen.metrics.kernel_distance"]
    whole = kernel_distance(a, b, subsets=20)
    monkeypatch.setattr(module, "_MAX_GRAM", 0)
    assert kernel_distance(a, b, subsets=20) == pytest.approx(whole, rel=1e-9)


def test_unbiased_and_ordered():
    same = [kernel_distance(randn(60, seed=2 * i), randn(60, seed=2 * i + 1), subset_size=60).mean for i in range(40)]
    mean, scatter = sum(same) / 40, torch.tensor(same).std() / math.sqrt(40)
    assert abs(mean) < 4 * scatter
    assert min(same) < 0
    near, far = (kernel_distance(randn(60), randn(60, seed=1) + shift).mean for shift in (0.3, 1.0))
    assert max(same) < far
    assert near < far


def test_default_is_half_and_keyed_by_the_seed():
    a, b = randn(30), randn(21, seed=1)
    first = kernel_distance(a, b)
    torch.randn(7)
    assert kernel_distance(a, b) == first
    assert first.subset_size == 10
    assert kernel_distance(a, b, seed=1).mean != first.mean
    assert kernel_distance(a, b, subset_size=1000).subset_size == 21


def test_bad_arguments():
    a = randn(4)
    with pytest.raises(ValueError, match="features_a must be"):
        kernel_distance(a[:1], a)
    with pytest.raises(ValueError, match="features_b must be"):
        kernel_distance(a, a[:, :2])
    with pytest.raises(ValueError, match="features_b must be finite"):
        kernel_distance(a, a / 0)
    for wrong in ({"degree": 0}, {"subsets": 0}, {"subset_size": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            kernel_distance(a, a, **wrong)
