"""Phases of a cine's frames."""

from __future__ import annotations

import math

import pytest
import torch

from monai_mamba_gen.inferers import PHASE_CURVES, phase_curve


def test_linear_and_cosine_go_from_end_diastole_to_end_systole():
    assert phase_curve("linear", 5).tolist() == [0, 0.25, 0.5, 0.75, 1]
    cosine = phase_curve("cosine", 5)
    expected = [0, 0.5 - math.sqrt(0.125), 0.5, 0.5 + math.sqrt(0.125), 1]
    assert cosine.tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("num_frames", [2, 3, 8, 10, 25])
def test_a_beat_starts_at_end_diastole_reaches_end_systole_and_almost_returns(num_frames):
    beat = phase_curve("beat", num_frames)
    assert beat[0] == 0 and beat.max() == 1 and (beat[1:] > 0).all()
    systole = int(beat.argmax())
    assert abs(systole - 0.38 * num_frames) <= 0.5 or systole == 1
    assert (beat[: systole + 1].diff() > 0).all() and (beat[systole:].diff() < 0).all()


def test_filling_is_quick_at_first():
    beat = phase_curve("beat", 100)
    assert beat[38 + 31] < 0.5, "half of diastole is over, more than half of the filling is done"
    assert beat[99] < 0.01


@pytest.mark.parametrize("name", PHASE_CURVES)
def test_range_and_type(name):
    phases = phase_curve(name, 7)
    assert phases.shape == (7,) and phases.dtype == torch.float32
    assert 0 <= float(phases.min()) and float(phases.max()) <= 1


def test_errors():
    with pytest.raises(ValueError, match="phase_curve must be one of .*'sine'"):
        phase_curve("sine", 4)
    for wrong in (1, 2.0, True):
        with pytest.raises(ValueError, match="num_frames must be an integer of at least 2"):
            phase_curve("linear", wrong)
