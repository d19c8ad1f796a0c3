"""One slice out of a case, and back: positions, affines, pictures and errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_mamba_gen.transforms import ChooseSliced, ResizeCenterCropd, RestoreSliced
from monai_mamba_gen.utils import DataError

AFFINE = torch.tensor([[0.0, -2.0, 0.5, 7], [1.5, 0, 0, -3], [0.1, 0, 4, 11], [0, 0, 0, 1]], dtype=torch.float64)


def loaded(*shape, name="case.nii.gz", affine=AFFINE):
    """Return an image as MONAI loads it."""
    values = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    meta = {"original_affine": affine.numpy(), "spatial_shape": np.array(shape), "filename_or_obj": name}
    return MetaTensor(values, affine=affine, meta=meta)


@pytest.mark.parametrize(("index", "chosen"), [(-1, 2), (0, 0), (4, 4), (3.0, 3)])
def test_the_slice_and_where_it_lies(index, chosen):
    volume = loaded(6, 7, 5)
    made = ChooseSliced("image", index)({"image": volume})["image"]
    assert torch.equal(made.as_tensor(), volume.as_tensor()[..., chosen])
    for corner in ((0.0, 0.0), (5.0, 6.0)):
        there = AFFINE @ torch.tensor([*corner, float(chosen), 1], dtype=torch.float64)
        torch.testing.assert_close(made.affine @ torch.tensor([*corner, 0, 1], dtype=torch.float64), there)
    assert torch.equal(volume.affine, AFFINE) and "chosen_slice" not in volume.meta


def test_a_volume_gets_its_slice_back_bit_for_bit_and_nothing_else():
    volume = loaded(6, 6, 5)
    data = ChooseSliced("image", 3)({"image": volume})
    result = RestoreSliced("pred", background=-9.0)({**data, "pred": data["image"].clone()})
    assert result["pred"].shape == (1, 6, 6, 5) and torch.equal(result["pred"].affine, AFFINE)
    assert torch.equal(result["pred"].as_tensor()[..., 3], volume.as_tensor()[..., 3])
    assert (result["pred"].as_tensor()[..., [0, 1, 2, 4]] == -9).all()
    assert tuple(result["image"].meta["spatial_shape"]) == (6, 6, 5)


@pytest.mark.parametrize("shape", [(24, 16), (24, 16, 1), (16, 24, 4), (10, 10, 2)])
def test_resize_and_crop_are_undone_in_place(shape):
    """A ramp in world coordinates is linear, so resampling keeps it where the model saw it."""
    image = loaded(*shape)
    places = torch.stack(torch.meshgrid(*[torch.arange(float(side)) for side in shape[:2]], indexing="ij"))
    ramp = (places[0] + 2 * places[1]).reshape(1, *shape[:2], *[1] * (len(shape) - 2)).expand_as(image)
    image = MetaTensor(ramp.clone(), meta=image.meta)
    data = ChooseSliced("image")(ResizeCenterCropd("image", 8)({"image": image}))
    assert data["image"].shape == (1, 8, 8)
    restored = RestoreSliced("pred", background=-100.0)({**data, "pred": data["image"]})["pred"]
    expected = (1, *shape) if len(shape) > 2 else (1, *shape, 1)
    assert restored.shape == expected and torch.allclose(restored.affine, AFFINE)
    made = restored.as_tensor()[..., shape[2] // 2 if len(shape) > 2 else 0]
    margin = [(side - min(shape[:2])) // 2 for side in shape[:2]]
    inner = made[:, margin[0] + 3 : shape[0] - margin[0] - 3, margin[1] + 3 : shape[1] - margin[1] - 3]
    true = (places[0] + 2 * places[1])[None][
        :, margin[0] + 3 : shape[0] - margin[0] - 3, margin[1] + 3 : shape[1] - margin[1] - 3
    ]
    assert (inner - true).abs().max() < 0.2
    if margin[0] or margin[1]:  # what the crop left out
        assert made[0, 0, 0] == -100


def test_a_picture_has_two_dimensions_and_any_affine():
    image = loaded(9, 7, name="xray.png", affine=torch.eye(3, dtype=torch.float64))
    data = ChooseSliced("image")({"image": image})
    result = RestoreSliced("pred")({**data, "pred": data["image"]})
    assert result["pred"].shape == (9, 7) and torch.equal(result["pred"].as_tensor(), image.as_tensor()[0])


def test_plain_tensors_are_cut_too():
    assert ChooseSliced("image", 1)({"image": torch.arange(8.0).reshape(1, 2, 2, 2)})["image"].tolist() == [
        [[1.0, 3.0], [5.0, 7.0]]
    ]
    assert ChooseSliced("image", allow_missing_keys=True)({}) == {}


@pytest.mark.parametrize("index", [-2, 1.5, True, "1", None])
def test_bad_index(index):
    with pytest.raises(ValueError, match="slice must be a whole number from 0 on, or -1 for the middle one, got"):
        ChooseSliced("image", index)


@pytest.mark.parametrize(
    ("shape", "index", "reason"),
    [
        ((1, 4, 4, 5), 5, "slice 5 is asked for, there are 0 to 4"),
        ((3, 4, 4, 5), 0, "one channel or frame"),
        ((1, 4), 0, "one channel or frame"),
    ],
)
def test_what_does_not_fit_is_named(shape, index, reason):
    image = MetaTensor(torch.rand(shape), meta={"filename_or_obj": "case.nii.gz"})
    with pytest.raises(DataError, match=rf"file case.nii.gz \(key 'image'\): .*{reason}"):
        ChooseSliced("image", index)({"image": image})
