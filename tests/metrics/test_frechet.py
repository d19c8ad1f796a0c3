import pytest
import torch

from monai_mamba_gen.metrics import FeatureMoments, frechet_distance, gaussian_frechet_distance, sample_size_warnings


def moments_of(n, dim, seed=0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    features = torch.randn(n, dim, generator=generator, dtype=torch.float64) @ mixing + shift
    return FeatureMoments(dim).update(features), features


def test_diagonal_gaussians_have_the_closed_form():
    generator = torch.Generator().manual_seed(0)
    mean_a, mean_b = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    var_a, var_b = torch.rand(2, 6, generator=generator, dtype=torch.float64)
    expected = ((mean_a - mean_b) ** 2).sum() + ((var_a.sqrt() - var_b.sqrt()) ** 2).sum()
    distance = gaussian_frechet_distance(mean_a, var_a.diag(), mean_b, var_b.diag())
    assert distance == pytest.approx(float(expected), rel=1e-12)
    # The same in a rotated basis, where the matrices do not look diagonal.
    q, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))
    rotated = gaussian_frechet_distance(q @ mean_a, q @ var_a.diag() @ q.T, q @ mean_b, q @ var_b.diag() @ q.T)
    assert rotated == pytest.approx(float(expected), rel=1e-10)


def test_two_by_two_that_do_not_commute():
    a = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    b = torch.tensor([[3.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    # tr sqrt(M) of a 2 x 2 matrix is sqrt(tr M + 2 sqrt(det M)).
    product = a @ b
    root = (product.trace() + 2 * torch.linalg.det(product).sqrt()).sqrt()
    expected = a.trace() + b.trace() - 2 * root
    zero = torch.zeros(2, dtype=torch.float64)
    assert gaussian_frechet_distance(zero, a, zero, b) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize(("n", "dim"), [(200, 20), (10, 32)])
def test_same_set_is_at_zero_and_never_below(n, dim):
    moments, features = moments_of(n, dim)
    distance = frechet_distance(moments, moments)
    assert isinstance(distance, float)
    assert 0 <= distance < 1e-9 * float(moments.cov.trace())
    shifted = FeatureMoments(dim).update(features + 2)
    assert frechet_distance(moments, shifted) == pytest.approx(4 * dim, rel=1e-8)


def test_fewer_images_than_features():
    """Covariances of 2 vectors have rank 1: the distance is known from two numbers."""
    a = torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]])
    b = torch.tensor([[0.0, 3, 0, 0], [0.0, -3, 0, 0]])
    distance = frechet_distance(FeatureMoments(4).update(a), FeatureMoments(4).update(b))
    assert distance == pytest.approx(2 + 18, rel=1e-12)


def test_symmetric():
    (a, _), (b, _) = moments_of(60, 12), moments_of(70, 12, seed=1, shift=0.5)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)


def test_agrees_with_monai():
    """MONAI's metric needs SciPy below 1.18 (its sqrtm call passes `disp`, see MONAI pull request 9076)."""
    pytest.importorskip("scipy", reason="MONAI's FIDMetric needs SciPy")
    from monai.metrics import FIDMetric

    (a, features_a), (b, features_b) = moments_of(300, 24), moments_of(400, 24, seed=1, shift=0.3)
    try:
        expected = float(FIDMetric()(features_a, features_b))
    except TypeError as error:
        pytest.skip(f"this SciPy is too new for MONAI's FIDMetric: {error}")
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_bias_shrinks_with_n():
    """Two sets from one distribution are further apart the fewer they are: why reports carry n and the floor."""
    generator = torch.Generator().manual_seed(0)

    def floor(n):
        sets = [FeatureMoments(64).update(torch.randn(n, 64, generator=generator)) for _ in range(2)]
        return frechet_distance(*sets)

    at_100, at_500, at_5000 = floor(100), floor(500), floor(5000)
    assert 8 < at_100 < 25
    assert 1.5 < at_500 < 5
    assert at_5000 < 0.6


def test_dims_must_agree():
    with pytest.raises(ValueError, match="same dim, got 2 and 3"):
        frechet_distance(FeatureMoments(2), FeatureMoments(3))


def test_sample_size_warnings_name_n():
    assert sample_size_warnings(128, 128, 64) == []
    few = sample_size_warnings(127, 127, 64)
    assert len(few) == 2
    assert "n_real = 127" in few[0] and "(128)" in few[0] and "n_fake = 127" in few[1]
    (unequal,) = sample_size_warnings(200, 300, 64)
    assert "n_real = 200 and n_fake = 300 differ" in unequal
