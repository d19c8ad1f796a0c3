from __future__ import annotations

import math

import pytest

from monai_mamba_gen.data import frame_interval

HALF = [0.0, 0.25, 0.5, 0.75, 1.0]
BEAT = [0.0, 0.5, 1.0, 0.6, 0.2]


def test_from_end_diastole_to_end_systole():
    assert frame_interval(HALF, 0.03, 1, 13) == pytest.approx(12 * 0.03 / 4)
    assert frame_interval(HALF, 0.03, 28, 10, num_frames=30) == pytest.approx(12 * 0.03 / 4)  # over the cycle's end
    assert frame_interval([0.0, 1.0], 0.05, 1, 2) == 0.05


def test_unknown_time():
    assert frame_interval(HALF) is None
    assert frame_interval(HALF, 0.03) is None
    assert frame_interval(HALF, 0.03, 28, 10) is None
    assert frame_interval(HALF[:-1], 0.03, 1, 13) is None  # does not reach end systole
    assert frame_interval([0.0], 0.03, 1, 13) is None
    for unknown in (0.0, -1.0, math.nan, None):
        assert frame_interval(HALF, unknown, 1, 13) is None


def test_a_beat_lasts_the_cycle_of_the_source_or_the_given_time():
    assert frame_interval(BEAT, 0.03, 1, 13, num_frames=30) == pytest.approx(30 * 0.03 / 5)
    assert frame_interval(BEAT) == 0.2
    assert frame_interval(BEAT, 0.03, seconds_per_beat=0.8) == pytest.approx(0.16)
    assert frame_interval(BEAT, seconds_per_beat=None) is None
