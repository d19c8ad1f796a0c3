"""The phantom heart: determinism, anatomy of the labels, motion."""

import numpy as np
import pytest

from monai_mamba_gen.data import PHANTOM_GROUPS, cardiac_phantom

SMALL = {"num_frames": 5, "shape": (64, 64, 5), "spacing": (2.25, 2.25, 14.0)}
EJECTION = {"NOR": (0.5, 0.72), "MINF": (0.2, 0.45), "DCM": (0.15, 0.38), "HCM": (0.52, 0.74), "RV": (0.43, 0.67)}


def test_same_seed_same_bits_other_seed_other_heart():
    first, again, other = (cardiac_phantom(seed, **SMALL) for seed in (3, 3, 4))
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1]) and first[2] == again[2]
    assert not np.array_equal(first[1], other[1])


@pytest.mark.parametrize("group", PHANTOM_GROUPS)
@pytest.mark.parametrize("seed", range(4))
def test_anatomy(group, seed):
    images, labels, info = cardiac_phantom(seed, group=group, **SMALL)
    assert images.shape == labels.shape == (5, 64, 64, 5)
    assert images.dtype == np.float32 and labels.dtype == np.uint8
    assert np.isfinite(images).all() and images.min() >= 0
    cavity, muscle = labels == 3, labels == 2
    padded = np.pad(cavity, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for axis in (1, 2):
        for step in (-1, 1):
            beside = np.roll(padded, step, axis)[:, 1:-1, 1:-1]
            assert not (beside & np.isin(labels, (0, 1))).any(), "the cavity is closed by the myocardium"
    assert cavity.any(axis=(1, 2)).all() and muscle.any(axis=(1, 2)).all()
    assert (labels[:, :, :, :2] == 1).any(axis=(1, 2)).all(), "a right ventricle at the base"
    assert images[cavity].mean() > 1.8 * images[muscle].mean(), "bright blood"
    volumes = cavity.sum(axis=(1, 2, 3))
    assert info["ED"] == 1 and volumes[0] == volumes.max()
    assert volumes[info["ES"] - 1] == volumes.min() < volumes[0]
    measured = 1 - volumes.min() / volumes[0]
    assert info["ejection_fraction"] == pytest.approx(measured)
    assert EJECTION[group][0] <= measured <= EJECTION[group][1]
    wall = muscle.sum(axis=(1, 2, 3))
    assert np.abs(wall / wall[0] - 1).max() < 0.12, "the myocardium keeps its volume"


def test_groups_differ_as_they_should():
    means = {}
    for group in PHANTOM_GROUPS:
        labels = [cardiac_phantom(seed, group=group, **SMALL)[1][0] for seed in range(4)]
        means[group] = {k: np.mean([(label == k).sum() for label in labels]) for k in (1, 2, 3)}
    assert means["DCM"][3] > 1.4 * means["NOR"][3] > 1.2 * means["HCM"][3]
    assert means["HCM"][2] > 1.3 * means["NOR"][2]
    assert means["RV"][1] > 1.2 * means["NOR"][1]


def test_motion_is_smooth_and_periodic():
    labels = cardiac_phantom(1, num_frames=20, shape=(48, 48, 3), spacing=(3, 3, 20), group="NOR")[1]
    volumes = (labels == 3).sum(axis=(1, 2, 3)) / (labels[0] == 3).sum()
    steps = np.diff(np.append(volumes, volumes[0]))
    assert np.abs(steps).max() < 0.2
    lowest = volumes.argmin()
    assert (steps[:lowest] <= 0.01).all() and (steps[lowest:] >= -0.01).all()


@pytest.mark.parametrize("spacing", [(1.5, 1.5, 10.0), (2.25, 2.25, 14.0)])
def test_heart_fills_a_good_part_of_the_picture(spacing):
    labels = cardiac_phantom(0, num_frames=2, shape=tuple(int(144 / s) for s in spacing[:2]) + (3,), spacing=spacing)[1]
    assert 0.1 < (labels[0, :, :, 1] > 0).mean() < 0.6


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"num_frames": 1}, "num_frames"),
        ({"shape": (8, 64, 4)}, "shape"),
        ({"shape": (64, 64)}, "shape"),
        ({"spacing": (1, 1, 0)}, "spacing"),
        ({"group": "XYZ"}, "group"),
    ],
)
def test_bad_arguments(arguments, name):
    with pytest.raises(ValueError, match=name):
        cardiac_phantom(0, **{**SMALL, **arguments})
