"""VisionEmbedder: sizes, resampling, gradients; published weights are in test_diffma_released."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from monai_mamba_gen.networks.nets import VisionEmbedder


def make(**arguments) -> VisionEmbedder:
    torch.manual_seed(0)
    return VisionEmbedder(**{"in_channels": 2, "image_size": 8, "embed_dim": 16, **arguments})


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [(8, 8), (1, 1), (7, 9), (16, 4), (2, 30), (15, 8)], ids=str)
@pytest.mark.parametrize("image_size", [8, (6, 10)])
def test_any_size(size, image_size):
    soft_mask, tokens = make(image_size=image_size)(draw(3, 2, *size))
    count = -(-size[0] // 2) * -(-size[1] // 2)
    assert soft_mask.shape == (3, count, 1) and tokens.shape == (3, count, 16)
    assert 0 < soft_mask.min() and soft_mask.max() < 1
    assert tokens.isfinite().all()


def test_another_grid_goes_by_way_of_the_trained_one():
    embedder, latent = make(), draw(2, 2, 12, 6)
    tokens = embedder.vision_embedding(latent)  # (N, 18, E)
    total = 0
    for values in (tokens.amax(-1), tokens.mean(-1)):
        there = F.interpolate(values.view(2, 1, 6, 3), size=(4, 4), mode="bilinear").flatten(1)
        total = total + F.interpolate(embedder.fc(there).view(2, 1, 4, 4), size=(6, 3), mode="bilinear").flatten(1)
    torch.testing.assert_close(embedder(latent)[0], torch.sigmoid(total)[..., None])


def test_border_is_repeated():
    embedder, latent = make(), draw(1, 2, 7, 8)
    padded = torch.cat([latent, latent[:, :, -1:]], dim=2)
    assert all(torch.equal(a, b) for a, b in zip(embedder(latent), embedder(padded), strict=True))


def test_tokens_have_the_published_normalisation():
    soft_mask, tokens = (embedder := make())(latent := draw(2, 2, 8, 8))
    torch.testing.assert_close(tokens.mean(dim=-1), torch.zeros(2, 16), atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens, embedder.norm(embedder.vision_embedding(latent) * soft_mask))


def test_every_parameter_has_a_gradient_but_the_mask_token():
    embedder = make(reduction=2)
    soft_mask, tokens = embedder(draw(2, 2, 8, 8))
    (soft_mask.square().mean() + (tokens * draw(2, 16, 16)).mean()).backward()
    without = [name for name, p in embedder.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert without == ["vision_embedding.mask_token"]
    assert not embedder.vision_embedding.mask_token.requires_grad


@pytest.mark.parametrize(("size", "units"), [(28, 14), (16, 4), (8, 1), (2, 1)])
def test_hidden_units(size, units):
    assert make(image_size=size).fc[0].out_features == units


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "image_size must be one or two positive numbers, got 0"),
        ({"image_size": (8, 8, 8)}, r"image_size must be one or two positive numbers, got \(8, 8, 8\)"),
        ({"patch_size": 0}, "patch_size must be at least 1, got 0"),
        ({"reduction": 0}, "reduction must be at least 1, got 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_other_channels_are_refused():
    with pytest.raises(ValueError, match=r"latent must be \(N, 2, H, W\), got \(1, 4, 8, 8\)"):
        make()(draw(1, 4, 8, 8))
