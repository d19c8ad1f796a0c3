"""Class labels from segmentations."""

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, RandFlipd

from monai_mamba_gen.transforms import PresenceLabeld


@pytest.mark.parametrize(("values", "label"), [([0, 0, 0], 0), ([0, 4, 0], 1), ([1, 2, 4], 1), ([0, 0, -1], 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_presence(values, label, dtype):
    mask = MetaTensor(torch.tensor([values]).clamp(min=0 if dtype == torch.uint8 else -1).to(dtype))
    found = PresenceLabeld("label")({"label": mask})["class_label"]
    assert type(found) is torch.Tensor and found.dtype == torch.int64 and found.shape == () and found == label


def test_least_number_of_voxels():
    mask = torch.tensor([[1.0, 0, 1]])
    assert [int(PresenceLabeld("label", min_voxels=n)({"label": mask})["class_label"]) for n in (1, 2, 3)] == [1, 1, 0]


def test_several_keys_and_in_a_compose():
    transform = Compose([PresenceLabeld(["seg", "rim"], ["tumour", "enhancing"]), RandFlipd("image", 0.5)])
    result = transform({"image": torch.zeros(1, 4, 4), "seg": torch.ones(1, 4, 4), "rim": torch.zeros(1, 4, 4)})
    assert (int(result["tumour"]), int(result["enhancing"])) == (1, 0)
    assert "a" not in PresenceLabeld("b", "a", allow_missing_keys=True)({})
    with pytest.raises(KeyError):
        PresenceLabeld("b")({})


def test_arguments():
    for given, message in (({"to": ("a", "b")}, "to must name one label"), ({"min_voxels": 0}, "min_voxels must be")):
        with pytest.raises(ValueError, match=message):
            PresenceLabeld("label", **given)
