"""BodyMaskd: body without table, with its cavities, on the CT's own grid."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_mamba_gen.transforms import BodyMaskd
from monai_mamba_gen.utils import DataError


def body():
    u, v, w = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in (40, 40, 6)), indexing="ij")
    inside = (u / 15) ** 2 + (v / 11) ** 2 < 1
    ct = np.where(inside, 40.0, -1000.0)
    ct[(u - 4) ** 2 + v**2 < 16] = -950.0  # gas, in every slice up to the volume's ends
    return torch.as_tensor(ct[None], dtype=torch.float32), inside


def test_body_with_its_gas_without_the_table():
    ct, inside = body()
    ct[0, 3:37, 37:39] = 200.0
    mask = BodyMaskd()({"image": ct})["mask"]
    assert mask.dtype == torch.uint8 and np.array_equal(mask[0].numpy().astype(bool), inside)


def test_geometry_and_a_mask_that_is_there():
    affine = torch.diag(torch.tensor([-1.5, -1.5, 3.0, 1.0])).double()
    ct = MetaTensor(body()[0], affine=affine, meta={"filename_or_obj": "ct.nii"})
    made = BodyMaskd(mask_key="body")({"image": ct})["body"]
    assert made.shape == ct.shape and torch.equal(made.affine, affine)
    given = {"image": ct, "mask": torch.zeros(1, 40, 40, 6)}
    assert BodyMaskd()(given)["mask"] is given["mask"]


def test_threshold_and_one_slice():
    ct, inside = body()
    flat = BodyMaskd(threshold=0)({"image": ct[..., 2].short()})["mask"]
    assert np.array_equal(flat[0].numpy().astype(bool), inside[..., 2])
    fat = torch.where(ct > 0, -100.0, ct)
    with pytest.raises(DataError, match="no voxel is above 0 HU"):
        BodyMaskd(threshold=0)({"image": fat})


def test_no_ct_in_hu():
    for value in (-2000.0, 5.0):
        ct = MetaTensor(torch.full((1, 4, 4, 2), value), meta={"filename_or_obj": "a.nii"})
        with pytest.raises(DataError) as caught:
            BodyMaskd()({"image": ct})
        message = str(caught.value)
        assert message.startswith("file a.nii (key 'image'): ") and "is this a CT in HU?" in message
