"""Embedding of time and class, and the modulation it becomes."""

from __future__ import annotations

import pytest
import torch

from monai_mamba_gen.networks.blocks import ConditionEmbedding, Modulation


def make(**arguments) -> ConditionEmbedding:
    torch.manual_seed(0)
    return ConditionEmbedding(8, 12, **arguments)


def test_times_are_told_apart():
    embedded = make()(torch.arange(1000))
    distance = torch.cdist(embedded, embedded) + 1e3 * torch.eye(1000)
    assert distance.min() > 0


def test_integer_and_float_times_agree():
    embedding = make()
    assert torch.equal(embedding(torch.tensor([3, 999])), embedding(torch.tensor([3.0, 999.0])))


def test_each_class_adds_its_row():
    """Rows 0, 1 and 2 for the classes, row 3 for any label below zero; the part of the time is the same for all."""
    embedding = make(num_class_embeds=3)
    rows = embedding.class_embedding.weight
    assert rows.shape == (4, 12)
    labelled = embedding(torch.full((5,), 7), torch.tensor([0, 1, 2, -1, -5]))
    time = labelled - rows[[0, 1, 2, 3, 3]]
    torch.testing.assert_close(time, time[:1].expand(5, 12))
    torch.testing.assert_close(time[0], make()(torch.tensor([7]))[0])


def test_no_labels_means_no_class():
    embedding = make(num_class_embeds=3)
    time = torch.tensor([1, 2])
    assert torch.equal(embedding(time), embedding(time, torch.tensor([-1, -1])))


@pytest.mark.parametrize("label", [3, 100])
def test_label_out_of_range(label):
    with pytest.raises(ValueError, match=f"class labels must be below num_class_embeds=3, got {label}"):
        make(num_class_embeds=3)(torch.tensor([1, 2]), torch.tensor([0, label]))


def test_labels_without_classes():
    with pytest.raises(ValueError, match="num_class_embeds=None"):
        make()(torch.tensor([1]), torch.tensor([0]))


def test_modulation_shifts_and_scales():
    modulation = Modulation(4, 3)
    x, t = torch.randn(2, 3, 5, 7), torch.randn(2, 4)
    scale, shift = modulation.projection(t).chunk(2, dim=1)
    torch.testing.assert_close(modulation(x, t), x * (1 + scale[..., None, None]) + shift[..., None, None])
    assert modulation(torch.randn(2, 3, 9), t).shape == (2, 3, 9)
