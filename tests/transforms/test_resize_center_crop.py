"""ResizeCenterCropd: sizes, geometry, values."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Resize

from monai_mamba_gen.transforms import ResizeCenterCropd


@pytest.mark.parametrize("size", [(32, 32), (20, 30), (64, 48), (33, 65)])
@pytest.mark.parametrize("shape", [(1, 40, 56), (3, 56, 40), (1, 40, 56, 5), (2, 37, 37, 3)])
def test_shape(size, shape):
    out = ResizeCenterCropd("image", size)({"image": torch.rand(shape)})["image"]
    assert out.shape == (shape[0], *size, *shape[3:]) and out.dtype == torch.float32


def test_depth_and_channels_do_not_mix():
    planes = torch.tensor([[0.0, 1.0, 5.0], [2.0, -3.0, 4.0]])
    image = planes[:, None, None, :].expand(2, 50, 40, 3).contiguous()
    for size in (16, 80):
        out = ResizeCenterCropd("image", size)({"image": image})["image"]
        torch.testing.assert_close(out, planes[:, None, None, :].expand(2, size, size, 3))


def test_monai_still_darkens_the_border_when_it_smooths():
    """When this fails, drop ``_border_response``: MONAI's anti-aliasing no longer filters zeros into the image."""
    assert Resize((16, 16), mode="bilinear", anti_aliasing=True)(torch.ones(1, 64, 64)).min() < 0.9


def test_same_size_changes_nothing():
    image = torch.rand(1, 16, 16, 2)
    assert torch.equal(ResizeCenterCropd("image", 16)({"image": image})["image"], image)


def test_crop_is_centred_and_scale_covers():
    ramp = torch.arange(40.0)[None, :, None].expand(1, 40, 20).contiguous()
    out = ResizeCenterCropd("image", 20)({"image": ramp})["image"]
    torch.testing.assert_close(out[0, :, 0], torch.arange(10.0, 30.0))


@pytest.mark.parametrize("size", [16, 24, 80])
def test_affine_keeps_world_positions(size):
    """A linear ramp in world coordinates is the same ramp after resizing, read through the new affine."""
    affine = torch.tensor([[0.0, -1.5, 0, 5], [2.0, 0, 0, -7], [0, 0, 10.0, 1], [0, 0, 0, 1]], dtype=torch.float64)
    index = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in (48, 40, 3)), indexing="ij"), -1).double()
    world = index @ affine[:3, :3].T + affine[:3, 3]
    image = MetaTensor(world.movedim(-1, 0).float(), affine=affine)
    out = ResizeCenterCropd("image", size)({"image": image})["image"]
    grid = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in out.shape[1:]), indexing="ij"), -1).double()
    expected = (grid @ out.affine[:3, :3].T + out.affine[:3, 3]).movedim(-1, 0).float()
    inner = (slice(None), slice(4, -4), slice(4, -4))
    torch.testing.assert_close(out.as_tensor()[inner], expected[inner], atol=0.02, rtol=0)
    assert torch.allclose(out.pixdim[2], torch.tensor(10.0, dtype=torch.float64))
    assert out.applied_operations == []


def test_shrinking_smooths_images_and_keeps_labels():
    stripes = (torch.arange(64) % 2).float()[None, :, None].expand(1, 64, 64).contiguous()
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (1, 64, 64, 2))).float()
    out = ResizeCenterCropd(["image", "label"], 16, mode=["bilinear", "nearest"])({"image": stripes, "label": labels})
    assert (out["image"][:, 2:-2, 2:-2] - 0.5).abs().max() < 0.1
    assert set(out["label"].unique().tolist()) == {0.0, 1.0, 2.0, 3.0}


@pytest.mark.parametrize("size", [0, (8, 8, 8), (8, -1), (8.5, 8)])
def test_bad_size(size):
    with pytest.raises(ValueError, match="spatial_size"):
        ResizeCenterCropd("image", size)


def test_bad_rank():
    with pytest.raises(ValueError, match=r"\(C, H, W\)"):
        ResizeCenterCropd("image", 8)({"image": torch.rand(8, 8)})
