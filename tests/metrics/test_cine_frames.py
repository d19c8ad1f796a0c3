import math

import pytest
import torch
from monai.metrics import SSIMMetric

from monai_mamba_gen.metrics import beat_difference, frame_scores, ssim_window, temporal_smoothness


def test_hand_computed_scores():
    """In [0, 1]: all 0.75 against all 0.25 has a mean squared error of 0.25, and constants have an exact SSIM."""
    pred, true = torch.full((1, 2, 2, 2), 0.5), torch.full((1, 2, 2, 2), -0.5)
    scores = frame_scores(pred, true)
    assert scores["psnr"] == [pytest.approx(10 * math.log10(1 / 0.25))]
    assert scores["nmse"] == [pytest.approx(0.25 / 0.0625)]
    luminance = (2 * 0.75 * 0.25 + 1e-4) / (0.75**2 + 0.25**2 + 1e-4)
    assert scores["ssim"] == [pytest.approx(luminance, rel=1e-4)]


def test_one_wrong_voxel():
    true = torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0, -1.0, 1.0, -1.0]).reshape(1, 2, 2, 2)
    pred = true.clone()
    pred[0, 0, 0, 0] = 0.0  # 0.5 instead of 1
    scores = frame_scores(pred, true)
    assert scores["nmse"] == [pytest.approx(0.25 / 4)]
    assert scores["psnr"] == [pytest.approx(-10 * math.log10(0.25 / 8))]


def test_each_frame_has_its_own_score():
    true = torch.rand(3, 9, 8, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    pred = true.clone()
    pred[1] = -pred[1]
    scores = frame_scores(pred, true)
    assert scores["psnr"][0] == scores["psnr"][2] == math.inf
    assert scores["ssim"][0] == pytest.approx(1) and scores["ssim"][1] < 0
    assert scores["nmse"][0] == 0 < scores["nmse"][1]
    for name, values in frame_scores(pred[1:2], true[1:2]).items():
        assert values == pytest.approx(scores[name][1:2]), name


def test_data_range_scales_all():
    true, pred = torch.rand(2, 2, 8, 8, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for name, values in frame_scores(pred * 5, true * 5, data_range=10.0).items():
        assert values == pytest.approx(frame_scores(pred, true)[name], rel=1e-4), name


def test_ssim_is_monais_where_its_window_fits():
    true, pred = torch.rand(2, 1, 9, 9, 9, generator=torch.Generator().manual_seed(0))
    expected = SSIMMetric(3, data_range=1.0, win_size=7)(pred[None], true[None]).item()
    assert frame_scores(pred * 2 - 1, true * 2 - 1)["ssim"] == [pytest.approx(expected, rel=1e-4)]


@pytest.mark.parametrize(
    ("shape", "window"), [((128, 128, 32), (7, 7, 7)), ((64, 7, 6), (7, 7, 5)), ((2, 1, 3), (1, 1, 3))]
)
def test_window_is_odd_and_fits(shape, window):
    assert ssim_window(shape) == window
    assert len(frame_scores(torch.zeros(2, *shape), torch.zeros(2, *shape))["ssim"]) == 2


def test_black_true_frame_and_no_frame():
    assert frame_scores(torch.zeros(1, 2, 2, 2), torch.full((1, 2, 2, 2), -1.0))["nmse"] == [None]
    assert frame_scores(torch.zeros(0, 2, 2, 2), torch.zeros(0, 2, 2, 2)) == {"psnr": [], "nmse": [], "ssim": []}


def test_arguments():
    with pytest.raises(ValueError, match=r"\(1, 2, 2, 2\) and \(2, 2, 2, 2\)"):
        frame_scores(torch.zeros(1, 2, 2, 2), torch.zeros(2, 2, 2, 2))
    with pytest.raises(ValueError, match="data_range"):
        frame_scores(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2), data_range=0)


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        ([0, 1, 2, 3], 0.0),
        ([0, 1, 0, 1], 2.0),
        ([0, 1, 2, 4], 0.5 / (4 / 3)),
        ([0, 0, 0, 1], 0.5 / (1 / 3)),
        ([1, 1, 1], None),
        ([0, 1], None),
    ],
)
def test_smoothness_by_hand(series, expected):
    frames = torch.tensor(series, dtype=torch.float32)[:, None, None, None].expand(-1, 2, 2, 2)
    value = temporal_smoothness(frames)
    assert value is None if expected is None else value == pytest.approx(expected)


def test_smoothness_weighs_voxels_by_their_change():
    still, jump = torch.zeros(4), torch.tensor([0.0, 1.0, 0.0, 1.0])
    assert temporal_smoothness(torch.stack([still, jump], dim=1)) == pytest.approx(2.0)


def test_difference_of_beats_by_hand():
    beats = [torch.full((2, 2, 2, 2), value) for value in (0.0, 0.25, 1.0)]
    assert beat_difference(beats) == pytest.approx((0.25 + 1.0 + 0.75) / 3)
    assert beat_difference([beat.half() for beat in beats]) == pytest.approx(2 / 3)
    assert beat_difference(beats[:1]) is None
