"""What goes to `TranslationInferer`, with its geometry."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from monai_mamba_gen.engines import TranslationInferenceBatch


def test_source_target_mask_and_seed():
    affine = torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0]))
    image, target, mask = (MetaTensor(torch.full((1, 1, 4, 4, 2), value), affine=affine) for value in (0.0, 0.5, 1.0))
    batch = {"image": image, "target": target, "mask": mask, "seed": [3], "patient": ["a"]}
    inputs, label, args, kwargs = TranslationInferenceBatch()(batch, "cpu")
    assert args == () and sorted(kwargs) == ["mask", "seeds"] and kwargs["seeds"].tolist() == [3]
    assert (
        isinstance(inputs, MetaTensor) and torch.equal(inputs.affine[0], affine) or torch.equal(inputs.affine, affine)
    )
    assert torch.equal(label.as_tensor(), target.as_tensor())
    back, label, _, _ = TranslationInferenceBatch("target", "image")(batch)
    assert float(back.max()) == 0.5 and float(label.max()) == 0.0


def test_source_alone():
    inputs, label, _, kwargs = TranslationInferenceBatch()({"image": torch.zeros(1, 1, 4, 4, 2)})
    assert inputs.shape == (1, 1, 4, 4, 2) and label is None and kwargs == {}
    with pytest.raises(ValueError, match="batch must have 'image'"):
        TranslationInferenceBatch()({"ct": torch.zeros(1)})
