"""The name of a model decides between the translator and the baselines, which are fitted only where they have to be."""

from __future__ import annotations

import pytest
import torch

from monai_mamba_gen.inferers import translator_or_baseline


def slices():
    return [{"image": torch.tensor([[[-0.5, 0.5]]]), "target": torch.tensor([[[0.25, -0.75]]])}]


def never():
    raise AssertionError("the training slices are not needed")


def test_names_of_networks_give_the_translator():
    translator = object()
    assert translator_or_baseline("diffma", translator, never) is translator


def test_baselines_need_no_translator():
    volume = torch.tensor([[[[-0.5, 0.5]]]])
    assert torch.equal(translator_or_baseline("identity", None, never)(volume), volume)
    forth = translator_or_baseline("map", None, slices)
    torch.testing.assert_close(forth(volume), torch.tensor([[[[0.25, -0.75]]]]))
    back = translator_or_baseline("map", None, slices, "mr2ct")
    torch.testing.assert_close(back(torch.tensor([[[[0.25, -0.75]]]])), volume)
    assert (forth.direction, back.direction) == ("ct2mr", "mr2ct")


def test_wrong_directions_are_refused():
    with pytest.raises(ValueError, match="direction must be one of"):
        translator_or_baseline("map", None, slices, "both")
