"""The frame that is kept of a cine."""

from __future__ import annotations

import torch
from monai.data import MetaTensor

from monai_mamba_gen.transforms import ChooseFramed


def test_the_frame_that_is_the_least_like_the_first():
    frames = torch.tensor([0.0, 1.0, -4.0, 2.0]).reshape(4, 1, 1, 1) + torch.rand(1, 5, 5, 2)
    image = MetaTensor(frames, affine=torch.diag(torch.tensor([2.0, 2, 9, 1])))
    made = ChooseFramed("pred")({"pred": image})["pred"]
    assert torch.equal(made.as_tensor(), frames[2:3]) and torch.equal(made.affine, image.affine)


def test_a_single_frame_stays():
    frame = torch.rand(1, 3, 3, 2)
    assert torch.equal(ChooseFramed("pred")({"pred": frame})["pred"], frame)
    assert ChooseFramed("pred", allow_missing_keys=True)({}) == {}
