"""Tensors without geometry."""

from __future__ import annotations

import torch
from monai.data import MetaTensor

from monai_mamba_gen.utils import plain_tensor


def test_a_meta_tensor_is_stripped_and_nothing_else_is_touched():
    values = torch.arange(3.0)
    assert type(plain_tensor(MetaTensor(values))) is torch.Tensor
    assert torch.equal(plain_tensor(MetaTensor(values)), values)
    assert plain_tensor("name") == "name" and plain_tensor(None) is None
    assert plain_tensor(values) is values
