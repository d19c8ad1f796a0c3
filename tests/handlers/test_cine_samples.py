from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_mamba_gen.handlers import CineSampleHandler
from monai_mamba_gen.inferers import CineInferer
from monai_mamba_gen.networks.nets import cine_model
from monai_mamba_gen.networks.schedulers import RespacedDDIMScheduler
from monai_mamba_gen.utils import film_strip

CPU = torch.device("cpu")
HEADER = 16  # of a strip's name


def patients(count):
    generator = torch.Generator().manual_seed(0)
    return [{key: torch.rand(1, 16, 12, 4, generator=generator) for key in ("image", "target")} for _ in range(count)]


def handler(network, dataset, num_images=2):
    inferer = CineInferer(RespacedDDIMScheduler(2000, prediction_type="v_prediction"), 4, num_inference_steps=2)
    return CineSampleHandler(inferer, network, dataset, num_images, 1, "x")


def test_a_strip_of_each_patient_between_its_ends():
    """Linear blending is known exactly, and cannot generate."""
    data = patients(3)
    picture = handler(cine_model("blend"), data).draw(CPU)
    strips = []
    for item in data[:2]:
        frames = torch.stack([torch.lerp(item["image"][0], item["target"][0], phase / 3) for phase in range(4)])
        strips.append(film_strip(frames, value_range=(-1.0, 1.0)))
    height = HEADER + len(strips[0])
    assert picture.shape == (2 * height, strips[0].shape[1])
    for number, strip in enumerate(strips):
        drawn = picture[number * height + HEADER : (number + 1) * height].astype(int)
        assert np.abs(drawn - strip).max() <= 1


def test_a_network_with_a_denoiser_also_generates():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = cine_model("mstg", "tiny", channels=(4, 4, 4, 4), integration_steps=2)
    data = patients(1)
    first, again = (handler(network, data).draw(CPU) for _ in range(2))
    height = HEADER + len(film_strip(torch.rand(4, 16, 12, 4)))
    assert len(first) == 2 * height and np.array_equal(first, again), "the seed is fixed"


@pytest.mark.parametrize("wrong", [{"dataset": []}, {"num_images": 0}])
def test_arguments(wrong):
    with pytest.raises(ValueError, match="num_images must be at least 1 and dataset not empty"):
        handler(cine_model("blend"), **{"dataset": patients(1)} | wrong)
