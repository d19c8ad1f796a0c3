import json

import pytest
import torch

from monai_mamba_gen.metrics import FeatureSet, RandomConvFeatures, build_report, frechet_distance

DIM = 4


def features_of(n, seed=0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return FeatureSet(torch.randn(n, DIM, generator=generator) + shift, torch.randperm(10 * n, generator=generator)[:n])


def report_of(real, fake, reference=None, **arguments):
    images = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return build_report(RandomConvFeatures(DIM), real, fake, images, images, reference, **arguments)


def test_clean_report_has_no_warning():
    real, fake, reference = features_of(40), features_of(40, seed=1, shift=1), features_of(90, seed=2)
    report = report_of(real, fake, reference, subsets=7)
    assert report["warnings"] == []
    assert (report["n_real"], report["n_fake"], report["n_floor"]) == (40, 40, 40)
    score, floor = report["synthetic_vs_real"], report["floor"]
    assert score["frechet_distance"] == pytest.approx(frechet_distance(real.moments, fake.moments))
    assert floor["frechet_distance"] < score["frechet_distance"] / 2
    assert floor["kernel_distance"]["mean"] < score["kernel_distance"]["mean"]
    assert floor["n"] == 40 and floor["n_against"] == 40 and "reference" in floor["kind"]
    assert score["kernel_distance"]["subsets"] == 7
    assert report["extractor"].startswith("random convolutions") and report["feature_dim"] == DIM
    assert "FID" not in json.dumps(report)
    assert set(report["versions"]) >= {"monai_mamba_gen", "python", "torch", "monai", "ignite", "numpy"}


def test_halves_are_the_floor_without_a_reference():
    report = report_of(features_of(41), features_of(40, seed=1))
    assert "two random halves" in report["floor"]["kind"]
    assert report["floor"]["n"] == report["floor"]["n_against"] == report["n_floor"] == 20
    text = " ".join(report["warnings"])
    assert "n_real = 41 and n_fake = 40 differ" in text
    assert "the floor is at n = 20, not at n_fake = 40" in text
    assert "against 20 real images, not against all 41" in text


def test_small_sets_warn_and_stay_finite():
    report = report_of(features_of(2), features_of(3, seed=1))
    assert report["floor"]["frechet_distance"] is None
    assert any("n_real = 2 is below twice the feature size (8)" in warning for warning in report["warnings"])
    assert any("n_fake = 3 is below" in warning for warning in report["warnings"])
    json.loads(json.dumps(report, allow_nan=False))
