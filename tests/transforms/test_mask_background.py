"""MaskBackgroundd: everything outside, and nothing inside."""

import pytest
import torch
from monai.data import MetaTensor

from monai_mamba_gen.transforms import MaskBackgroundd
from monai_mamba_gen.utils import DataError


def test_only_the_outside_changes():
    affine = torch.diag(torch.tensor([1.5, 1.5, 3.0, 1.0])).double()
    image = MetaTensor(torch.rand(1, 4, 5, 6), affine=affine)
    mask = torch.rand(1, 4, 5, 6) > 0.5
    for inside in (mask, mask.float(), MetaTensor(mask.to(torch.uint8))):
        changed = MaskBackgroundd(["image", "target"], background=-2.0)(
            {"image": image, "target": torch.ones(1, 4, 5, 6), "mask": inside}
        )
        assert torch.equal(changed["image"][mask], image[mask]) and (changed["image"][~mask] == -2).all()
        assert torch.equal(changed["image"].affine, affine) and changed["target"].sum() == mask.sum() * 3 - 240
    assert image.min() >= 0


def test_errors():
    image = MetaTensor(torch.rand(1, 4, 4), meta={"filename_or_obj": "a.nii"})
    with pytest.raises(DataError, match=r"file a.nii \(key 'image'\): has no mask, key 'body' is missing"):
        MaskBackgroundd("image", "body")({"image": image, "mask": image})
    with pytest.raises(DataError, match=r"shape \(1, 4, 4\), its mask has \(1, 4, 3\)"):
        MaskBackgroundd("image")({"image": image, "mask": torch.ones(1, 4, 3)})
    assert MaskBackgroundd("image", allow_missing_keys=True)({}) == {}
