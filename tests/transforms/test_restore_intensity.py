"""The way back to the grey values of a file."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from monai_mamba_gen.transforms import RestoreIntensityd, ScaleIntensityJointlyd


def image(values, name="case.nii.gz"):
    return MetaTensor(torch.as_tensor(values), meta={"filename_or_obj": name})


def scaled(values, name="case.nii.gz", **kwargs):
    scale = ScaleIntensityJointlyd("image", "image", lower=0, upper=100, **kwargs)
    return scale({"image": image(values, name)})["image"]


def test_back_to_what_was_scaled():
    values = torch.rand(1, 6, 6) * 900 + 40
    data = {"image": scaled(values)}
    made = RestoreIntensityd("pred")({**data, "pred": data["image"]})["pred"]
    torch.testing.assert_close(made.as_tensor(), values)


@pytest.mark.parametrize(("most", "kind"), [(200.0, torch.uint8), (4000.0, torch.uint16)])
def test_pictures_hold_whole_numbers(most, kind):
    data = {"image": scaled(torch.tensor([[0.0, most / 2, most]]), "xray.PNG")}
    made = RestoreIntensityd("pred")({**data, "pred": torch.tensor([[-1.5, 0.0, 1.0]])})["pred"]
    assert made.dtype == kind and made.tolist() == [[0, int(most / 2), int(most)]]


@pytest.mark.parametrize(("name", "expected"), [("case.nii.gz", [-1.0, 1.0]), ("xray.png", [0, 255])])
def test_an_image_without_contrast_says_nothing_of_grey_values(name, expected):
    data = {"image": scaled(torch.full((1, 4), 7.0), name, allow_constant=True)}
    assert (data["image"].as_tensor() == -1).all()
    assert RestoreIntensityd("pred")({**data, "pred": torch.tensor([-1.0, 1.0])})["pred"].tolist() == expected


def test_an_image_that_was_not_scaled():
    with pytest.raises(KeyError, match="intensity_range"):
        RestoreIntensityd("pred")({"image": image([1.0]), "pred": torch.zeros(1)})
