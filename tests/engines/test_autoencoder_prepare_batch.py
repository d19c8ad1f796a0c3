"""Images of several keys as one batch."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from monai_mamba_gen.engines import AutoencoderPrepareBatch


def batch():
    return {"image": MetaTensor(torch.zeros(2, 1, 4, 3)), "target": torch.ones(2, 1, 4, 3), "index": [4, 9]}


def test_keys_follow_each_other_and_are_plain():
    images, target = AutoencoderPrepareBatch()(batch(), "cpu")
    assert images is target and type(images) is torch.Tensor
    assert images[:, 0, 0, 0].tolist() == [0, 0, 1, 1]
    assert AutoencoderPrepareBatch("target")(batch())[0].shape == (2, 1, 4, 3)


def test_errors():
    with pytest.raises(ValueError, match="keys must name at least one image"):
        AutoencoderPrepareBatch(())
    with pytest.raises(ValueError, match="mask is not: it has image, target, index"):
        AutoencoderPrepareBatch(("image", "mask"))(batch())
    with pytest.raises(ValueError, match=r"keys must be of one size, got image \(2, 1, 4, 3\), target \(2, 1, 5, 3\)"):
        AutoencoderPrepareBatch()({**batch(), "target": torch.ones(2, 1, 5, 3)})
