from __future__ import annotations

import torch
from monai.data import MetaTensor

from monai_mamba_gen.engines import CineInferenceBatch


def test_only_what_the_batch_has_is_passed_on():
    image = MetaTensor(torch.zeros(2, 1, 4, 4, 3), affine=torch.diag(torch.tensor([2.0, 2.0, 8.0, 1.0])))
    inputs, target, args, kwargs = CineInferenceBatch()({"image": image}, "cpu")
    assert isinstance(inputs, MetaTensor) and torch.equal(inputs.affine, image.affine)
    assert target is None and args == () and kwargs == {}
    batch = {"image": image, "target": image + 1, "seed": [4, 5], "phases": torch.full((2, 1), 0.5)}
    _, target, _, kwargs = CineInferenceBatch()(batch, "cpu")
    assert torch.equal(target, image + 1) and kwargs["target"] is target
    assert kwargs["seeds"].tolist() == [4, 5] and "phases" not in kwargs


def test_true_phases_lie_between_the_ends():
    batch = {"image": torch.zeros(2, 1, 4, 4, 3)}
    assert CineInferenceBatch(true_phases=True)(batch)[3]["phases"].tolist() == [[0, 1], [0, 1]]
    batch["phases"] = torch.tensor([[0.25, 0.5], [0.75, 0.875]])
    phases = CineInferenceBatch(true_phases=True)(batch)[3]["phases"]
    assert phases.tolist() == [[0, 0.25, 0.5, 1], [0, 0.75, 0.875, 1]]
