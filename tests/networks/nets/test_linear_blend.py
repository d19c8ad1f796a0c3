"""Blending by hand."""

from __future__ import annotations

import pytest
import torch

from monai_mamba_gen.networks.nets import LinearBlend


def test_frames_by_hand() -> None:
    source, target = torch.rand(2, 1, 5, 4, 3), torch.rand(2, 1, 5, 4, 3)
    blend = LinearBlend()
    frames, displacement = blend.animate(source, target, None, torch.tensor([[0.0, 0.5, 1.0], [1.0, 0.0, 0.25]]))
    assert frames.shape == (2, 3, 5, 4, 3) and displacement.shape == (2, 3, 3, 5, 4, 3)
    assert torch.equal(frames[0, 0], source[0, 0]) and torch.equal(frames[0, 2], target[0, 0])
    assert torch.equal(frames[1, 0], target[1, 0]) and torch.equal(frames[1, 1], source[1, 0])
    torch.testing.assert_close(frames[0, 1], (source + target)[0, 0] / 2)
    assert not displacement.any()
    assert torch.equal(blend.warp(source, displacement, "nearest"), source.expand(2, 3, 5, 4, 3))


def test_code_is_end_systole() -> None:
    context = torch.rand(1, 2, 5, 4, 3)
    prediction, code = LinearBlend().predict(None, context=context)
    assert prediction is None and torch.equal(code, context[:, 1:2])


def test_nothing_to_train() -> None:
    assert list(LinearBlend().parameters()) == []
    with pytest.raises(ValueError, match="linear blending has nothing to train"):
        LinearBlend()(torch.zeros(1, 1, 4, 4, 4), context=torch.zeros(1, 2, 4, 4, 4))
    with pytest.raises(ValueError, match="context must be"):
        LinearBlend().predict(None)
    with pytest.raises(ValueError, match="target must be"):
        LinearBlend().animate(torch.zeros(1, 1, 4, 4, 4), None, None, [0.0])
