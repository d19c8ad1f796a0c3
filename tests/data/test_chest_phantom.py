"""The phantom of a chest: where things are, and what findings change."""

import numpy as np
import pytest

from monai_mamba_gen.data import CHEST_FINDINGS, chest_phantom


def mean(picture, rows, columns):
    size = len(picture)
    return picture[slice(*(int(at * size) for at in rows)), slice(*(int(at * size) for at in columns))].mean()


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [48, 96])
def test_upright_and_the_right_way_round(seed, size):
    picture = chest_phantom(seed, size)
    assert picture.shape == (size, size) and picture.dtype == np.uint8
    lungs = [mean(picture, (0.3, 0.5), columns) for columns in ((0.25, 0.38), (0.64, 0.75))]
    middle, belly = mean(picture, (0.3, 0.5), (0.47, 0.53)), mean(picture, (0.92, 1), (0.2, 0.4))
    assert max(lungs) + 40 < min(middle, belly), "lungs are dark, spine and liver bright"
    assert mean(picture, (0, 0.04), (0, 0.12)) < 60, "air beside the neck"
    assert mean(picture, (0.55, 0.7), (0.58, 0.66)) > mean(picture, (0.55, 0.7), (0.3, 0.38)) + 30, "the heart's tip"


def test_images_of_one_patient_differ_little():
    first, again, visit, other = (chest_phantom(*given) for given in ((5,), (5,), (5, 64, (), 1), (6,)))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, visit) and not np.array_equal(first, other)


@pytest.mark.parametrize("finding", CHEST_FINDINGS)
def test_findings_brighten_a_part_of_the_lungs(finding):
    for seed in range(4):
        healthy, ill = (chest_phantom(seed, 64, findings).astype(float) for findings in ((), (finding,)))
        brighter = (ill - healthy > 25).mean()
        assert (0.003 if finding == "Nodule" else 0.01) < brighter < 0.25, seed
        assert (healthy - ill > 25).mean() < 0.02


def test_cardiomegaly_widens_the_heart():
    widths = []
    for findings in ((), ("Cardiomegaly",)):
        row = chest_phantom(2, 128, findings)[82].astype(float)
        widths.append((row[32:110] > 150).sum())
    assert widths[1] > 1.2 * widths[0]


def test_arguments():
    for given, message in (
        ({"size": 8}, "size must be"),
        ({"size": 32.0}, "size must be"),
        ({"findings": ("Flu",)}, "findings must be some of"),
    ):
        with pytest.raises(ValueError, match=message):
            chest_phantom(0, **given)
