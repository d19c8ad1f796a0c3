"""The terms of an autoencoder's loss against closed forms, and that a small autoencoder learns by them."""

from __future__ import annotations

import pytest
import torch
from monai.losses import PerceptualLoss
from monai.networks.nets import AutoencoderKL
from torch import nn
from torch.distributions import Normal, kl_divergence

from monai_mamba_gen.losses import AutoencoderLoss
from monai_mamba_gen.networks.nets import LatentSpace


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def output(count=2):
    return draw(count, 1, 8, 6), draw(count, 3, 2, 2, seed=1), draw(count, 3, 2, 2, seed=2).exp()


@pytest.mark.parametrize(("name", "error"), [("l1", nn.L1Loss()), ("l2", nn.MSELoss())])
def test_terms_are_the_closed_forms(name, error):
    images, (reconstruction, mean, sigma) = draw(2, 1, 8, 6, seed=3), output()
    loss = AutoencoderLoss(kl_weight=0.5, reconstruction=name)
    value = loss((reconstruction, mean, sigma), images)
    kl = kl_divergence(Normal(mean, sigma), Normal(0.0, 1.0)).flatten(1).sum(1).mean() / 48
    parts = loss.parts
    assert parts["reconstruction"] == pytest.approx(float(error(reconstruction, images)), rel=1e-6)
    assert parts["kl"] == pytest.approx(float(kl), rel=1e-5)
    assert parts["loss"] == float(value) == pytest.approx(parts["reconstruction"] + 0.5 * parts["kl"], rel=1e-6)


def test_the_weight_means_what_it_means_where_everything_is_summed():
    images, (reconstruction, mean, sigma) = draw(2, 1, 8, 6, seed=3), output()
    summed = (reconstruction - images).abs().sum() / 2
    summed = summed + 1e-2 * kl_divergence(Normal(mean, sigma), Normal(0.0, 1.0)).sum() / 2
    assert float(AutoencoderLoss(1e-2)((reconstruction, mean, sigma), images)) == pytest.approx(
        float(summed) / 48, rel=1e-5
    )


def test_the_mean_over_a_batch_is_that_of_its_samples():
    images, out, loss = draw(4, 1, 8, 6, seed=3), output(4), AutoencoderLoss(0.1)
    each = [float(loss(tuple(part[i : i + 1] for part in out), images[i : i + 1])) for i in range(4)]
    assert float(loss(out, images)) == pytest.approx(sum(each) / 4, rel=1e-6)


def test_no_divergence_without_a_posterior_and_zero_for_the_prior():
    images = draw(2, 1, 8, 6)
    loss = AutoencoderLoss(1.0)
    loss((images, draw(2, 3, 2, 2), None), images)
    assert loss.parts == {"reconstruction": 0.0, "loss": 0.0}
    loss((images, torch.zeros(2, 3, 2, 2), torch.ones(2, 3, 2, 2)), images)
    assert loss.parts["kl"] == pytest.approx(0, abs=1e-7)
    assert torch.isfinite(loss((images, torch.zeros(2, 3, 2, 2), torch.zeros(2, 3, 2, 2)), images))


def test_optional_terms():
    class Twice(nn.Module):
        def forward(self, first, second=None):
            return 2 * first.mean().abs() + (0 if second is None else second.mean() * 0)

    images, out = draw(2, 1, 8, 6, seed=3), output()
    loss = AutoencoderLoss(0.0, perceptual=Twice(), perceptual_weight=3.0, adversarial=Twice(), adversarial_weight=5.0)
    value = float(loss(out, images))
    expected = float((out[0] - images).abs().mean() + 16 * out[0].mean().abs())
    assert value == pytest.approx(expected, rel=1e-5)
    assert sorted(loss.parts) == ["adversarial", "loss", "perceptual", "reconstruction"]
    with torch.no_grad():
        loss(out, images)
    assert "adversarial" not in loss.parts, "validation losses compare"


def test_monais_perceptual_loss_has_the_interface():
    assert issubclass(PerceptualLoss, nn.Module)
    assert PerceptualLoss.forward.__code__.co_varnames[:3] == ("self", "input", "target")


def test_float32_under_autocast():
    images, out = draw(2, 1, 8, 6, seed=3), output()
    plain = float(AutoencoderLoss(1.0)(out, images))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert float(AutoencoderLoss(1.0)(out, images)) == plain


def test_a_small_autoencoder_learns():
    torch.manual_seed(0)
    none = {"with_encoder_nonlocal_attn": False, "with_decoder_nonlocal_attn": False}
    inner = AutoencoderKL(
        2, channels=(8, 8), attention_levels=(False, False), num_res_blocks=1, norm_num_groups=4, **none
    )
    network, loss = LatentSpace(inner), AutoencoderLoss()
    axis = torch.linspace(-1, 1, 16)
    images = torch.stack([(axis[:, None] * a + axis[None] * (1 - a)).clamp(-1, 1) for a in torch.linspace(-1, 1, 8)])[
        :, None
    ]
    optimizer, first = torch.optim.Adam(network.parameters(), lr=3e-3), None
    for _ in range(80):
        optimizer.zero_grad()
        value = loss(network(images), images)
        value.backward()
        optimizer.step()
        first = first or loss.parts["reconstruction"]
    assert loss.parts["reconstruction"] < 0.3 * first


def test_arguments():
    for wrong in ({"kl_weight": -1.0}, {"perceptual_weight": -0.1}):
        with pytest.raises(ValueError, match="weights must not be negative"):
            AutoencoderLoss(**wrong)
    with pytest.raises(ValueError, match="reconstruction must be one of l1, l2, got 'l3'"):
        AutoencoderLoss(reconstruction="l3")
    with pytest.raises(ValueError, match="as the reconstruction is"):
        AutoencoderLoss()(output(), torch.zeros(2, 1, 8, 7))
