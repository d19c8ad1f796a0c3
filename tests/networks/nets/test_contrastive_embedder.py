"""The contrastive stage: what is compared, and that a vision embedder learns by it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_mamba_gen.engines import ContrastivePrepareBatch
from monai_mamba_gen.losses import InfoNCELoss
from monai_mamba_gen.networks import nets
from monai_mamba_gen.networks.nets import ContrastiveEmbedder, LatentSpace


class Tokens(nn.Module):
    def forward(self, latents):
        return None, latents.flatten(2).transpose(1, 2)


def test_views_are_halves_and_embeddings_are_means_of_tokens():
    views = torch.rand(6, 4, 5, 3)
    first, second = ContrastiveEmbedder(Tokens())(views)
    torch.testing.assert_close(torch.cat([first, second]), views.mean((2, 3)))
    with pytest.raises(ValueError, match="even number"):
        ContrastiveEmbedder(Tokens())(views[:5])


def test_a_vision_embedder_learns_to_tell_images():
    if not hasattr(nets, "VisionEmbedder"):
        pytest.skip("no VisionEmbedder in this package")
    torch.manual_seed(0)
    network = ContrastiveEmbedder(
        nets.VisionEmbedder(in_channels=1, image_size=8, patch_size=2, embed_dim=8, reduction=2)
    )
    texture = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4)
    images = torch.stack([0.5 * a + 0.4 * b * texture for a in (-1, -0.3, 0.3, 1) for b in (0, 1)])[:, None]
    prepare_batch, loss = ContrastivePrepareBatch(LatentSpace()), InfoNCELoss(0.2)
    optimizer, losses = torch.optim.Adam(network.parameters(), lr=1e-2), []
    for _ in range(60):
        views, target = prepare_batch({"image": images})
        optimizer.zero_grad()
        value = loss(network(views), target)
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    assert sum(losses[-5:]) / 5 < 0.8 * losses[0]
    learnt = {name for name, each in network.named_parameters() if each.grad is not None}
    assert learnt == {name for name, _ in network.named_parameters()} - {"embedder.vision_embedding.mask_token"}
