"""CT and MR phantoms: one anatomy, two contrasts that are not functions of each other."""

import numpy as np
import pytest
import torch

from monai_mamba_gen.data import PHANTOM_REGIONS, ct_mr_phantom
from monai_mamba_gen.data.ct_mr_phantom import phantom_spacing
from monai_mamba_gen.transforms import BodyMaskd

SHAPE = (48, 48, 12)


@pytest.fixture(scope="module")
def pairs():
    return {region: [ct_mr_phantom(seed, region, SHAPE) for seed in (0, 1)] for region in PHANTOM_REGIONS}


@pytest.mark.parametrize("region", PHANTOM_REGIONS)
def test_types_ranges_and_repeatability(pairs, region):
    first, second = pairs[region]
    assert {key: (array.shape, str(array.dtype)) for key, array in first.items()} == {
        "ct": (SHAPE, "int16"),
        "mr": (SHAPE, "float32"),
        "mask": (SHAPE, "uint8"),
    }
    assert first["ct"].min() >= -1024 and first["mr"].min() >= 0 and set(np.unique(first["mask"])) == {0, 1}
    again = ct_mr_phantom(0, region, SHAPE)
    for key in first:
        assert np.array_equal(first[key], again[key]) and not np.array_equal(first[key], second[key])


@pytest.mark.parametrize("region", PHANTOM_REGIONS)
def test_tissues_are_there(pairs, region):
    for pair in pairs[region]:
        ct, inside = pair["ct"], pair["mask"] == 1
        assert (
            abs(np.median(ct[~inside]) + 1000) < 5 and np.percentile(pair["mr"][~inside], 99) < 0.1 * pair["mr"].max()
        )
        body = ct[inside]
        shares = {
            "air": (body < -700).mean(),
            "fat": ((body > -160) & (body < -40)).mean(),
            "soft tissue": ((body > -10) & (body < 90)).mean(),
            "bone": (body > 400).mean(),
        }
        floor = {"air": 0.02, "fat": 0.02, "soft tissue": 0.25, "bone": 0.01}
        assert all(shares[name] > floor[name] for name in floor), shares


@pytest.mark.parametrize("region", PHANTOM_REGIONS)
def test_mr_is_no_function_of_ct(pairs, region):
    for pair in pairs[region]:
        inside = pair["mask"] == 1
        ct, mr = pair["ct"][inside].astype(float), pair["mr"][inside].astype(float)
        scale = np.percentile(mr, 99)
        assert np.median(mr[ct > np.percentile(ct, 99.5)]) < 0.35 * scale and np.median(mr[ct < -900]) < 0.1 * scale
        # the best lookup table from CT to MR leaves much of the MR unexplained, even with 40 HU fine bins
        bins = np.digitize(ct, np.arange(-1000, 1500, 40))
        table = np.bincount(bins, mr) / np.maximum(np.bincount(bins), 1)
        unexplained = ((mr - table[bins]) ** 2).mean() / mr.var()
        print(f"{region}: {unexplained:.2f} of the variance of MR is unexplained by CT")
        assert 0.1 < unexplained < 0.9
        soft = mr[(ct > 0) & (ct < 70)]
        low, high = np.percentile(soft, (10, 90))
        assert high > 1.5 * low


@pytest.mark.parametrize("region", PHANTOM_REGIONS)
def test_mask_is_the_body_and_some_mm_more(pairs, region):
    for pair in pairs[region]:
        ct = torch.as_tensor(pair["ct"].astype(np.float32))[None]
        body = BodyMaskd()({"image": ct})["mask"][0].numpy().astype(bool)
        mask = pair["mask"] == 1
        assert (body & ~mask).sum() < 0.002 * body.sum()
        assert body.sum() < mask.sum() < 1.6 * body.sum()


@pytest.mark.parametrize("region", PHANTOM_REGIONS)
def test_the_same_patient_at_another_resolution(pairs, region):
    fine = ct_mr_phantom(0, region, (96, 96, 12))["ct"].astype(float)
    pooled = fine.reshape(48, 2, 48, 2, 12).mean((1, 3))
    assert np.corrcoef(pooled.ravel(), pairs[region][0]["ct"].ravel())[0, 1] > 0.95


def test_spacing():
    assert phantom_spacing("brain", (48, 96, 12)) == (5, 2.5, 11.5)
    near = ct_mr_phantom(0, "brain", SHAPE, (1.0, 1.0, 2.0))
    assert near["mask"].mean() > ct_mr_phantom(0, "brain", SHAPE)["mask"].mean()


def test_errors():
    for given, message in (
        ({"region": "heart"}, "region must be one of"),
        ({"shape": (8, 16, 4)}, "shape must be"),
        ({"shape": (16, 16)}, "shape must be"),
        ({"spacing": (1, 1, 0)}, "spacing must be three lengths"),
        ({"spacing": (1, 1)}, "spacing must be three lengths"),
    ):
        with pytest.raises(ValueError, match=message):
            ct_mr_phantom(0, **given)
