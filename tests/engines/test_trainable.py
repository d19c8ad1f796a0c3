from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_mamba_gen.engines import trainable


def test_a_network_is_moved_and_returned():
    network = nn.Linear(2, 1)
    assert trainable(network, "meta") is network and network.weight.device == torch.device("meta")


def test_nothing_to_train_is_an_error():
    frozen = nn.Linear(2, 1).requires_grad_(False)
    for network in (nn.Identity(), frozen):
        with pytest.raises(ValueError, match=f"{type(network).__name__} has nothing to train"):
            trainable(network)
