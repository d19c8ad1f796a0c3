from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from monai_mamba_gen.handlers import TranslationSampleHandler
from monai_mamba_gen.utils.image_grid import image_grid

CPU = torch.device("cpu")
HEADER = 16  # of a row's name


def slices(count, *left_out):
    items = []
    for number in range(count):
        item = {"image": torch.full((1, 8, 6), number / count), "target": torch.full((1, 8, 6), -number / count)}
        item |= {"mask": torch.ones(1, 8, 6), "position": number / count, "patient": "a"}
        items.append({key: value for key, value in item.items() if key not in left_out})
    return items


class Stub(SimpleNamespace):
    """Gives back what it is given, and keeps it."""

    def __call__(self, inputs, network, **kwargs):
        self.asked = {"inputs": inputs, "network": network, **kwargs}
        return inputs


def handler(inferer, dataset, num_images=4, interval=1):
    return TranslationSampleHandler(inferer, torch.nn.Linear(1, 1), dataset, num_images, interval, "x")


def test_slices_from_all_over_the_data_set_are_shown():
    inferer = Stub(direction="ct2mr")
    drawing = handler(inferer, slices(16))
    picture = drawing.draw(CPU)
    assert inferer.asked["inputs"][:, 0, 0, 0].tolist() == [2 / 16, 6 / 16, 10 / 16, 14 / 16]
    assert inferer.asked["position"].tolist() == [2 / 16, 6 / 16, 10 / 16, 14 / 16]
    assert inferer.asked["mask"].shape == (4, 1, 8, 6) and inferer.asked["network"] is drawing.network
    row = image_grid(inferer.asked["inputs"], 4)
    height = HEADER + len(row)
    assert picture.shape == (3 * height, row.shape[1])
    assert np.array_equal(picture[HEADER:height], row), "source"
    assert np.array_equal(picture[height + HEADER : 2 * height], image_grid(-inferer.asked["inputs"], 4)), "truth"
    assert np.array_equal(picture[2 * height + HEADER :], row), "what the inferer made"


@pytest.mark.parametrize(("direction", "first"), [("ct2mr", 0.25), ("mr2ct", -0.25)])
def test_the_source_is_that_of_the_direction(direction, first):
    inferer = Stub(direction=direction)
    handler(inferer, slices(4, "mask", "position"), num_images=2).draw(CPU)
    assert inferer.asked["inputs"][0, 0, 0, 0] == first
    assert inferer.asked["mask"] is None and inferer.asked["position"] is None


def test_a_small_data_set_is_shown_whole():
    inferer = Stub(direction="ct2mr")
    handler(inferer, slices(2), num_images=8).draw(CPU)
    assert inferer.asked["inputs"][:, 0, 0, 0].tolist() == [0.0, 0.5]


@pytest.mark.parametrize("wrong", [{"dataset": []}, {"num_images": 0}])
def test_arguments(wrong):
    with pytest.raises(ValueError, match="num_images must be at least 1 and dataset not empty"):
        handler(Stub(direction="ct2mr"), **{"dataset": slices(1)} | wrong)
