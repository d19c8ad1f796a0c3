import pytest
import torch
from monai.metrics import MultiScaleSSIMMetric

from monai_mamba_gen.metrics import ms_ssim_diversity


def blobs(n, size=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, 1, 8, 8, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear").clamp(-1, 1)


def test_copies_are_at_one_and_different_images_below():
    images = blobs(8)
    assert ms_ssim_diversity(images[:1].expand(4, -1, -1, -1)).mean == pytest.approx(1, abs=1e-6)
    collapsed = images[:1] + 0.05 * blobs(8, seed=1)
    assert ms_ssim_diversity(images).mean < ms_ssim_diversity(collapsed).mean < 1


def test_two_images_equal_monai():
    a, b = blobs(2)
    metric = MultiScaleSSIMMetric(spatial_dims=2, data_range=1.0, kernel_size=4, reduction="none")
    expected = float(metric((a[None] + 1) / 2, (b[None] + 1) / 2))
    result = ms_ssim_diversity(torch.stack([a, b]))
    assert result.mean == pytest.approx(expected, rel=1e-5)
    assert (result.pairs, result.scales) == (1, 5)


def test_monai_default_kernel_refuses_128_pixels():
    """Why the kernel is 4: when this stops raising, MONAI's default may be used."""
    with pytest.raises(ValueError, match="larger than 160"):
        MultiScaleSSIMMetric(spatial_dims=2)(torch.zeros(1, 1, 128, 128), torch.zeros(1, 1, 128, 128))


@pytest.mark.parametrize("size", [4, 5, 8, 15, 16, 31, 36, 63, 64, 96])
def test_every_size_has_scales(size):
    result = ms_ssim_diversity(blobs(3, size))
    assert 0 <= result.mean <= 1
    assert result.pairs == 3
    assert result.scales == (1 if size < 8 else 2 if size < 16 else 3 if size < 36 else 4 if size < 64 else 5)


def test_pairs_are_keyed_and_never_an_image_with_itself():
    images = blobs(40, size=16)
    first = ms_ssim_diversity(images, pairs=50, batch_size=7)
    assert first.pairs == 50
    assert first.mean < 0.99
    assert ms_ssim_diversity(images, pairs=50).mean == pytest.approx(first.mean, rel=1e-5)
    assert ms_ssim_diversity(images, pairs=50, seed=1).mean != pytest.approx(first.mean, rel=1e-6)


def test_bad_arguments():
    with pytest.raises(ValueError, match="N >= 2"):
        ms_ssim_diversity(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="at least 4 pixels"):
        ms_ssim_diversity(torch.zeros(2, 1, 3, 8))
    with pytest.raises(ValueError, match="pairs must be at least 1"):
        ms_ssim_diversity(torch.zeros(2, 1, 8, 8), pairs=0)
