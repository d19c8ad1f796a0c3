"""HeartCropd: where it cuts, with labels and without, and that positions in mm stay what they were."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_mamba_gen.data import cardiac_phantom
from monai_mamba_gen.transforms import HeartCropd
from monai_mamba_gen.utils import DataError

KEYS = ["image", "target", "frames", "label", "target_label"]
AFFINE = torch.tensor([[0.0, -2.0, 0.0, 5.0], [1.5, 0.0, 0.0, -7.0], [0.0, 0.0, 8.0, 3.0], [0, 0, 0, 1]])


def ramp(shape, affine=AFFINE):
    """Each voxel holds the second world coordinate plus ten times the third."""
    grid = torch.stack(torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in shape), indexing="ij"))
    world = torch.einsum("ij,jxyz->ixyz", affine[:3, :3].double(), grid) + affine[:3, 3].double().reshape(3, 1, 1, 1)
    return MetaTensor((world[1] + 10 * world[2])[None].float(), affine=affine)


def labelled(shape, low, high):
    label = torch.zeros(1, *shape)
    label[0, low[0] : high[0] + 1, low[1] : high[1] + 1, low[2] : high[2] + 1] = 3
    return MetaTensor(label, affine=AFFINE)


def phantom(shift=(0, 0)):
    images, labels, info = cardiac_phantom(3, num_frames=4, shape=(64, 64, 5), spacing=(2.5, 2.5, 12.0), group="NOR")
    es = info["ES"] - 1
    volumes = {"image": images[0], "target": images[es], "label": labels[0]}
    affine = torch.diag(torch.tensor([2.5, 2.5, 12.0, 1.0]))
    padding = ((max(0, shift[0]), max(0, -shift[0])), (max(0, shift[1]), max(0, -shift[1])), (0, 0))
    return {
        key: MetaTensor(torch.from_numpy(np.pad(volume.astype(np.float32), padding))[None], affine=affine)
        for key, volume in volumes.items()
    }


@pytest.mark.parametrize("size", [(6, 4, 2), (5, 7, 3)])
def test_the_box_round_the_label_holds_its_middle_in_its_own(size):
    label = labelled((15, 13, 7), (6, 3, 2), (9, 8, 4))  # centre 7.5, 5.5, 3
    crop = HeartCropd(KEYS, size, allow_missing_keys=True)
    cropped = crop({"image": ramp((15, 13, 7)), "label": label})
    assert cropped["image"].shape == cropped["label"].shape == (1, *size)
    where = cropped["image"].affine.double() @ torch.tensor([*((side - 1) / 2 for side in size), 1.0]).double()
    heart = AFFINE.double() @ torch.tensor([7.5, 5.5, 3.0, 1.0]).double()
    half_a_voxel = torch.tensor([2.0, 1.5, 8.0, 0.1]).double() / 2
    assert bool(((where - heart).abs() <= half_a_voxel + 1e-6).all())


def test_world_coordinates_stay():
    cropped = HeartCropd(KEYS, (5, 20, 4), allow_missing_keys=True)(
        {"image": ramp((15, 13, 7)), "label": labelled((15, 13, 7), (2, 2, 2), (4, 4, 4))}
    )
    image, again = cropped["image"], ramp((5, 20, 4), cropped["image"].affine)
    inside = image != image.min()
    assert inside.sum() > 100 and torch.allclose(image.as_tensor()[inside], again.as_tensor()[inside], atol=1e-4)
    assert torch.equal(image.affine, cropped["label"].affine) and not image.applied_operations


def test_small_and_odd_volumes_are_padded_with_the_lowest_value_and_labels_with_0():
    torch.manual_seed(0)
    data = {key: torch.rand(2 if key == "frames" else 1, 7, 5, 3) + 4 for key in KEYS[:3]}
    data["frames"][1, 0, 0, 0] = 2.5
    data["label"] = data["target_label"] = torch.ones(1, 7, 5, 3)
    cropped = HeartCropd(KEYS, (8, 8, 4))(data)
    assert {key: tuple(cropped[key].shape) for key in KEYS} == {
        key: (2 if key == "frames" else 1, 8, 8, 4) for key in KEYS
    }
    outside = cropped["label"] == 0
    assert int(outside.sum()) == 8 * 8 * 4 - 7 * 5 * 3
    assert bool((cropped["image"][outside] == 2.5).all()) and bool((cropped["target"][outside] == 2.5).all())
    assert torch.equal(cropped["label"].as_tensor(), cropped["target_label"].as_tensor())
    same = HeartCropd("image", (7, 5, 3))({"image": data["image"]})
    assert torch.equal(same["image"].as_tensor(), data["image"])


@pytest.mark.parametrize("shift", [(0, 0), (14, -10), (-12, 16)])
def test_without_label_the_heart_of_the_phantom_is_found(shift):
    data = phantom(shift)
    shape = tuple(data["image"].shape[1:])
    by_label = torch.tensor(HeartCropd(KEYS, 32).find_centre(data, shape))
    by_change = torch.tensor(HeartCropd(KEYS, 32, label_key=None).find_centre(data, shape))
    apart = (by_label - by_change)[:2].norm() * 2.5
    off_middle = (by_label[:2] - (torch.tensor(shape[:2]) - 1) / 2).norm() * 2.5
    assert apart < 10 and (shift == (0, 0) or off_middle > 15), (apart, off_middle)
    assert by_change[2] == 2


def test_an_empty_label_and_a_missing_one_mean_the_same():
    data = phantom()
    shape = tuple(data["image"].shape[1:])
    crop = HeartCropd(KEYS, 16)
    without = {key: data[key] for key in ("image", "target")}
    assert crop.find_centre(without, shape) == crop.find_centre({**without, "label": data["label"] * 0}, shape)


def test_ed_alone_and_no_change_give_the_middle():
    image = torch.rand(1, 9, 8, 4)
    crop = HeartCropd(KEYS, (3, 3, 2), allow_missing_keys=True)
    assert crop.find_centre({"image": image}, (9, 8, 4)) == [4, 3.5, 1.5]
    assert crop.find_centre({"image": image, "target": image.clone()}, (9, 8, 4)) == [4, 3.5, 1.5]
    assert torch.equal(crop({"image": image})["image"].as_tensor(), image[:, 3:6, 3:6, 1:3])


def test_wrong_shapes_and_arguments():
    data = {"image": torch.rand(1, 8, 8, 4), "target": torch.rand(1, 8, 7, 4)}
    with pytest.raises(DataError, match=r"key 'target'.*\(8, 7, 4\) beside \(8, 8, 4\)"):
        HeartCropd(["image", "target"], 4)(data)
    with pytest.raises(KeyError):
        HeartCropd(KEYS, 4)({"image": data["image"]})
    for wrong in ({"spatial_size": (4, 4)}, {"spatial_size": 0}, {"change_keys": ("image",)}, {"central_part": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            HeartCropd(KEYS, **{"spatial_size": 4, **wrong})
