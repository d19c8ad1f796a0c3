"""The named sizes of VMDDPM."""

from __future__ import annotations

import pytest
import torch

from monai_mamba_gen.networks.nets import VMDDPM

# as docs/performance.md tells them
PARAMETERS = {"micro": 651_801, "tiny": 4_196_785, "small": 39_553_033, "base": 69_677_409, "large": 155_336_209}


@pytest.mark.parametrize("name", PARAMETERS)
def test_presets(name):
    with torch.device("meta"):
        network = VMDDPM.from_preset(name)
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[name]


def test_every_preset_is_in_the_table():
    assert set(VMDDPM.presets) == set(PARAMETERS)


def test_base_preset_is_the_default():
    with torch.device("meta"):
        default, base = VMDDPM(), VMDDPM.from_preset("base")
    assert {n: p.shape for n, p in default.named_parameters()} == {n: p.shape for n, p in base.named_parameters()}


def test_preset_can_be_changed():
    network = VMDDPM.from_preset("micro", in_channels=2, sequence_regeneration="off", channels=(8, 8))
    assert network.in_channels == 2
    assert network.stride == 4


def test_unknown_preset():
    with pytest.raises(ValueError, match="preset must be one of .*'micro'.* got 'huge'"):
        VMDDPM.from_preset("huge")
