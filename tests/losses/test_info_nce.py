"""InfoNCE against the formula written out, and its two limits."""

from __future__ import annotations

import math

import pytest
import torch

from monai_mamba_gen.losses import InfoNCELoss


def views(count=5, size=7):
    return torch.randn(2, count, size, generator=torch.Generator().manual_seed(0)).double()


def test_equals_the_formula():
    first, second = views()
    total = 0.0
    for one, other in ((first, second), (second, first)):
        for i in range(5):
            scores = [float(torch.cosine_similarity(one[i], other[j], dim=0)) / 0.5 for j in range(5)]
            total -= scores[i] - math.log(sum(math.exp(score) for score in scores))
    loss = InfoNCELoss(0.5)
    assert float(loss((first.float(), second.float()))) == pytest.approx(total / 10, rel=1e-5)
    assert loss.parts["loss"] == pytest.approx(total / 10, rel=1e-5)


def test_limits():
    loss = InfoNCELoss(0.07)
    assert float(loss((torch.ones(8, 3), torch.ones(8, 3)))) == pytest.approx(math.log(8), rel=1e-6)
    assert float(loss((torch.eye(8), 3 * torch.eye(8)))) < 1e-4 and loss.parts["accuracy"] == 1
    assert float(loss((torch.eye(8), torch.eye(8).roll(1, 0)))) > 10 and loss.parts["accuracy"] == 0


def test_gradients_reach_both_views():
    first, second = (each.float().requires_grad_() for each in views())
    InfoNCELoss()((first, second), "a target is not used").backward()
    assert all(float(each.grad.abs().sum()) > 0 for each in (first, second))


def test_arguments():
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        InfoNCELoss(0.0)
    with pytest.raises(ValueError, match="views must be two"):
        InfoNCELoss()((torch.zeros(2, 3), torch.zeros(3, 3)))
    with pytest.raises(ValueError, match="at least 2 samples"):
        InfoNCELoss()((torch.zeros(1, 3), torch.zeros(1, 3)))
