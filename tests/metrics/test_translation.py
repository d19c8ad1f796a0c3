"""Scores of SynthRAD2023: against numbers computed by hand, a plain loop, and scikit-image where it is installed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from monai_mamba_gen.metrics import translation, translation_scores


def volumes(shape=(13, 12, 11), seed=0):
    generator = torch.Generator().manual_seed(seed)
    true = torch.rand(shape, generator=generator) * 2 - 1
    pred = (true + 0.4 * torch.randn(shape, generator=generator)).float()
    return pred, true, (torch.rand(shape, generator=generator) > 0.3).float()


def ssim_by_loop(pred, true, mask, low, high):
    """One window after the other, with numpy's own variances."""
    pred, true = (np.where(mask > 0, np.clip(volume.astype(float), low, high) - low, 0) for volume in (pred, true))
    window = [min(7, size - 1 + size % 2) for size in pred.shape]
    c1, c2 = (0.01 * (high - low)) ** 2, (0.03 * (high - low)) ** 2
    values = []
    for corner in np.ndindex(*(size - width + 1 for size, width in zip(pred.shape, window))):
        if mask[tuple(first + width // 2 for first, width in zip(corner, window))] <= 0:
            continue
        box = tuple(slice(first, first + width) for first, width in zip(corner, window))
        a, b = pred[box].ravel(), true[box].ravel()
        cov = np.cov(a, b)
        luminance = (2 * a.mean() * b.mean() + c1) / (a.mean() ** 2 + b.mean() ** 2 + c1)
        values.append(luminance * (2 * cov[0, 1] + c2) / (cov[0, 0] + cov[1, 1] + c2))
    return np.mean(values)


def test_by_hand():
    """Two voxels of four are in the mask: errors 0.5 and 1.5, the second clipped to 1."""
    pred, true = torch.tensor([[0.5, 1.5, 9.0, 0.0]]), torch.tensor([[0.0, 0.0, 0.0, -7.0]])
    scores = translation_scores(pred, true, torch.tensor([[1, 3, 0, 0]]))
    assert scores["mae"] == 1.0
    assert scores["psnr"] == pytest.approx(10 * math.log10(4 / ((0.25 + 1) / 2)))


def test_hounsfield_units_have_the_range_of_the_challenge():
    true, mask = torch.zeros(8, 8, 8), torch.ones(8, 8, 8)
    scores = translation_scores(true - 1500, true, mask, (-1024.0, 3000.0))
    assert scores["mae"] == 1500
    assert scores["psnr"] == pytest.approx(20 * math.log10(4024 / 1024))


def test_constant_volumes():
    scores = translation_scores(torch.full((9, 9, 9), 0.2), torch.full((9, 9, 9), -0.4), torch.ones(9, 9, 9))
    first, second = 0.6, 0.3  # of the range
    assert scores["ssim"] == pytest.approx((2 * first * second + 1e-4) / (first**2 + second**2 + 1e-4), abs=1e-7)


@pytest.mark.parametrize("shape", [(13, 12, 11), (9, 8, 7), (10, 9, 4), (12, 11, 1), (14, 9)])
@pytest.mark.parametrize("data_range", [(-1.0, 1.0), (-0.5, 1.5)])
def test_ssim_is_that_of_a_plain_loop(shape, data_range):
    pred, true, mask = volumes(shape)
    expected = ssim_by_loop(pred.numpy(), true.numpy(), mask.numpy(), *data_range)
    assert translation_scores(pred, true, mask, data_range)["ssim"] == pytest.approx(expected, abs=1e-9)


def test_one_slice_is_scored_in_two_dimensions():
    pred, true, mask = volumes((16, 15))
    flat, volume = (translation_scores(*(each[index] for each in (pred, true, mask))) for index in (..., (..., None)))
    assert flat == volume


def test_the_challenges_own_calls():
    """What image_metrics.py asks of scikit-image, on CT."""
    metrics = pytest.importorskip("skimage.metrics")
    pred, true, mask = (volume.numpy().astype(np.float64) for volume in volumes((15, 14, 13)))
    pred, true, low, high = pred * 2500, true * 2500, -1024.0, 3000.0
    scores = translation_scores(*map(torch.from_numpy, (pred, true, mask)), (low, high))
    assert scores["mae"] == pytest.approx(np.abs(true * mask - pred * mask).sum() / mask.sum())
    pred, true = np.clip(pred, low, high), np.clip(true, low, high)
    inside = mask > 0
    assert scores["psnr"] == pytest.approx(
        metrics.peak_signal_noise_ratio(true[inside], pred[inside], data_range=high - low)
    )
    pred, true = np.where(inside, pred, low) - low, np.where(inside, true, low) - low
    _, ssim = metrics.structural_similarity(true, pred, data_range=high - low, full=True)
    assert scores["ssim"] == pytest.approx(ssim[3:-3, 3:-3, 3:-3][inside[3:-3, 3:-3, 3:-3]].mean(), abs=1e-9)


def test_what_is_outside_the_mask_does_not_count():
    pred, true, mask = volumes()
    other = torch.where(mask > 0, pred, math.nan)
    assert translation_scores(other, true, mask) == translation_scores(pred, true, mask)


def test_box_and_slabs_change_nothing(monkeypatch):
    pred, true, _ = volumes((20, 19, 18))
    mask = torch.zeros(20, 19, 18)
    mask[8:13, 2:9, 5:18] = 1
    expected = ssim_by_loop(pred.numpy(), true.numpy(), mask.numpy(), -1.0, 1.0)
    for planes in (1, 5, 32):
        monkeypatch.setattr(translation, "_PLANES", planes)
        assert translation_scores(pred, true, mask)["ssim"] == pytest.approx(expected, abs=1e-9)


def test_scale_of_the_range_only_changes_the_mean_error():
    pred, true, mask = volumes()
    one, two = (
        translation_scores(pred, true, mask),
        translation_scores((pred + 1) / 2, (true + 1) / 2, mask, (0.0, 1.0)),
    )
    assert two["mae"] == pytest.approx(one["mae"] / 2)
    assert (two["psnr"], two["ssim"]) == (pytest.approx(one["psnr"]), pytest.approx(one["ssim"]))


def test_equal_volumes_and_a_mask_at_the_border():
    _, true, mask = volumes()
    assert translation_scores(true, true, mask) == {"mae": 0, "psnr": math.inf, "ssim": pytest.approx(1)}
    border = torch.zeros_like(mask)
    border[:3] = 1
    assert translation_scores(true, true, border)["ssim"] is None


def test_errors():
    pred, true, mask = volumes()
    for arguments, message in (
        ((pred[:5], true, mask), r"must all be .* got \(5, 12, 11\), \(13, 12, 11\)"),
        ((pred[None], true[None], mask[None]), "must all be"),
        ((pred, true, mask * 0), "mask is empty"),
        ((pred * math.nan, true, mask), "NaN"),
        ((pred, true, mask, (1.0, 1.0)), "data_range must be"),
        ((pred, true, mask, (0.0, 1.0, 2.0)), "data_range must be"),
    ):
        with pytest.raises(ValueError, match=message):
            translation_scores(*arguments)
