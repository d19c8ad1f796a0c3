"""ScaleIntensityWindowd: MONAI's numbers, and one line for a window in which nothing is to be seen."""

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import ScaleIntensityRanged

from monai_mamba_gen.transforms import ScaleIntensityWindowd
from monai_mamba_gen.utils import DataError


def test_values_are_monais_and_the_affine_stays():
    affine = torch.diag(torch.tensor([1.5, 1.5, 3.0, 1.0])).double()
    ct = MetaTensor(torch.randint(-1024, 3000, (1, 4, 5, 6)).short(), affine=affine)
    scaled = ScaleIntensityWindowd("image", (-160, 240))({"image": ct, "patient": "a"})
    expected = ScaleIntensityRanged("image", -160, 240, -1, 1, clip=True)({"image": ct})["image"]
    assert torch.equal(scaled["image"], expected) and scaled["image"].dtype == torch.float32
    assert torch.equal(scaled["image"].affine, affine) and scaled["patient"] == "a" and ct.max() > 240
    edges = ScaleIntensityWindowd("image")({"image": torch.tensor([-3000.0, -1000, 0, 1000, 3000])})["image"]
    assert edges.tolist() == [-1, -1, 0, 1, 1]


@pytest.mark.parametrize("shift", [0, 2000])
def test_a_wrong_window_names_file_key_and_values(shift):
    ct = MetaTensor(torch.linspace(0, 1, 20).reshape(1, 4, 5) + shift, meta={"filename_or_obj": "a.nii.gz"})
    with pytest.raises(DataError) as caught:
        ScaleIntensityWindowd("image", (100, 1000))({"image": ct})
    message = str(caught.value)
    assert message.startswith("file a.nii.gz (key 'image'): ") and "\n" not in message
    assert "window 100 to 1000" in message and f"the values are {shift} to {shift + 1}" in message
    with pytest.raises(DataError, match="window"):
        ScaleIntensityWindowd("image")({"image": torch.full((1, 4), float("nan"))})


def test_keys_and_arguments():
    assert ScaleIntensityWindowd("image", allow_missing_keys=True)({}) == {}
    with pytest.raises(KeyError):
        ScaleIntensityWindowd("image")({})
    for window in ((1, 1), (2, 1), (1, 2, 3), (float("nan"), 1)):
        with pytest.raises(ValueError, match="window must be two numbers"):
            ScaleIntensityWindowd("image", window)
