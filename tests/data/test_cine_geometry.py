"""Fields on a model's grid, taken to scans whose voxels are larger, oblong and turned."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from monai_mamba_gen.data import crop_box, displacement_to_grid, restore_cine, warp_volume

SHAPE_SOURCE, SHAPE_MODEL = (40, 34, 9), (16, 16, 12)


def turned(spacing, centre, shape, angles=(0.0, 0.0), flip=False):
    """An affine of this spacing whose grid has its middle at ``centre``."""
    (cos_a, sin_a), (cos_b, sin_b) = ((math.cos(angle), math.sin(angle)) for angle in angles)
    rotation = np.array([[cos_a, -sin_a, 0], [sin_a, cos_a, 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, cos_b, -sin_b], [0, sin_b, cos_b]]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag(spacing) @ np.diag([-1 if flip else 1, 1, 1])
    affine[:3, 3] = np.array(centre) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return torch.from_numpy(affine)


SOURCE = turned((1.4, 1.4, 8.0), (5, -3, 20), SHAPE_SOURCE, (0.4, -0.3), flip=True)
MODEL = turned((1.5, 1.5, 3.15), (6, -2, 21), SHAPE_MODEL, (0.4, -0.3))


def world(affine, shape):
    axes = torch.meshgrid(*[torch.arange(size, dtype=torch.float64) for size in shape], indexing="ij")
    return torch.einsum("ij,jxyz->ixyz", affine[:3, :3], torch.stack(axes)) + affine[:3, 3].view(3, 1, 1, 1)


def model_place(shape=SHAPE_SOURCE, source=SOURCE, model=MODEL):
    inverse = torch.linalg.inv(model)
    return torch.einsum("ij,jxyz->ixyz", inverse[:3, :3], world(source, shape)) + inverse[:3, 3].view(3, 1, 1, 1)


def depth(margin):
    """Voxels of the source that lie at least ``margin`` model voxels within the crop."""
    place, size = model_place(), torch.tensor(SHAPE_MODEL).view(3, 1, 1, 1)
    return ((place >= margin - 0.5) & (place <= size - 0.5 - margin)).all(dim=0)


def translation(*voxels):
    return torch.tensor(voxels).view(1, 3, 1, 1, 1).expand(1, 3, *SHAPE_MODEL).clone()


def test_translation_of_two_model_voxels_is_three_millimetres():
    moved = displacement_to_grid(translation(2.0, 0.0, 0.0), MODEL, SOURCE, SHAPE_SOURCE)
    in_mm = torch.einsum("ij,jxyz->ixyz", SOURCE[:3, :3], moved[0].double())
    expected = 2 * MODEL[:3, 0]
    assert expected.norm().item() == pytest.approx(3.0)
    inside = depth(2.0)
    assert inside.sum() > 100
    torch.testing.assert_close(in_mm[:, inside], expected[:, None].expand(3, int(inside.sum())), atol=1e-5, rtol=0)


def test_a_linear_image_moves_by_the_known_distance():
    """Trilinear interpolation is exact for it: frame(x) = volume(x + u)."""
    slope, field = torch.tensor([0.7, -1.3, 0.4], dtype=torch.float64), translation(1.0, -2.0, 0.5)
    volume = torch.einsum("i,ixyz->xyz", slope, world(SOURCE, SHAPE_SOURCE)).float()
    shift = float(slope @ (MODEL[:3, :3] @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)))
    frames = restore_cine(volume, SOURCE, field, MODEL)["frames"]
    inside = depth(2.0)
    inside[..., :1] = inside[..., -1:] = False  # where the scan has no more slices, its border goes on
    torch.testing.assert_close((frames[0] - volume)[inside], torch.full([int(inside.sum())], shift), atol=2e-3, rtol=0)


def test_field_varies_as_on_the_model_grid():
    axes = torch.meshgrid(*[torch.arange(size, dtype=torch.float32) for size in SHAPE_MODEL], indexing="ij")
    field = torch.stack([0.1 * axes[0], -0.2 * axes[1] + 0.05 * axes[2], 0.1 * axes[2]])[None]
    place = model_place()
    expected = torch.stack([0.1 * place[0], -0.2 * place[1] + 0.05 * place[2], 0.1 * place[2]])
    expected = torch.einsum("ij,jxyz->ixyz", torch.linalg.inv(SOURCE)[:3, :3] @ MODEL[:3, :3], expected)
    moved, inside = displacement_to_grid(field, MODEL, SOURCE, SHAPE_SOURCE)[0], depth(2.0)
    torch.testing.assert_close(moved[:, inside], expected[:, inside].float(), atol=1e-4, rtol=0)


def test_zero_outside_and_no_jump_at_the_border():
    moved = displacement_to_grid(translation(2.0, 1.0, 0.0), MODEL, SOURCE, SHAPE_SOURCE)[0]
    full = moved.norm(dim=0).max()
    assert (moved[:, ~depth(0.0)] == 0).all() and (~depth(0.0)).any()
    steps = torch.cat([moved.diff(dim=axis).norm(dim=0).flatten() for axis in (1, 2)])  # in-plane, ~1 model voxel
    assert steps.max() < 0.8 * full
    fine = turned((0.3, 0.3, 8.0), (6, -2, 21), (90, 90, 9), (0.4, -0.3))
    smooth = displacement_to_grid(translation(2.0, 1.0, 0.0), MODEL, fine, (90, 90, 9))[0]
    step = max(smooth.diff(dim=axis).norm(dim=0).max() for axis in (1, 2))
    assert 0 < step < 0.25 * smooth.norm(dim=0).max()


def test_no_fading_where_the_scan_ends_with_the_crop():
    field = torch.rand(2, 3, 8, 6, 4)
    affine = turned((1.0, 2.0, 8.0), (0, 0, 0), (8, 6, 4), (0.3, 0.2))
    torch.testing.assert_close(displacement_to_grid(field, affine, affine, (8, 6, 4)), field, atol=1e-5, rtol=0)
    wider = turned((1.0, 2.0, 8.0), (0, 0, 0), (14, 12, 4), (0.3, 0.2))  # goes on in-plane only
    moved = displacement_to_grid(field, affine, wider, (14, 12, 4))[:, :, 3:11, 3:9]
    torch.testing.assert_close(moved[:, :, 3:5, 2:4], field[:, :, 3:5, 2:4], atol=1e-5, rtol=0)


def test_one_slice():
    affine = turned((1.0, 1.0, 8.0), (0, 0, 0), (8, 6, 1))
    field = torch.rand(1, 3, 8, 6, 1)
    moved = displacement_to_grid(field, affine, affine, (8, 6, 1))
    torch.testing.assert_close(moved, field, atol=1e-5, rtol=0)
    volume = torch.rand(8, 6, 1)
    assert torch.isfinite(warp_volume(volume, moved[0])).all()


def test_phase_0_is_the_scan_bit_for_bit():
    volume, label = torch.rand(SHAPE_SOURCE) * 3e3 + 1 / 3, torch.randint(0, 4, SHAPE_SOURCE).to(torch.uint8)
    field = torch.cat([torch.zeros(1, 3, *SHAPE_MODEL), translation(1.3, 0.4, 0.1)])
    cine = restore_cine(volume, SOURCE, field, MODEL, label)
    assert torch.equal(cine["frames"][0], volume) and torch.equal(cine["labels"][0], label)
    assert not torch.equal(cine["frames"][1], volume) and not torch.equal(cine["labels"][1], label)
    outside = ~depth(0.0)
    assert torch.equal(cine["frames"][1][outside], volume[outside])
    assert cine["labels"].dtype == torch.uint8 and set(cine["labels"].unique().tolist()) <= {0, 1, 2, 3}
    assert (cine["displacement"][0] == 0).all()


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_whole_voxels_are_pulled(mode):
    volume = torch.arange(5 * 4 * 3, dtype=torch.float32).view(5, 4, 3)
    field = torch.zeros(3, 5, 4, 3)
    field[0], field[1], field[2] = 1, -1, 1
    warped = warp_volume(volume, field, mode)
    torch.testing.assert_close(warped[:-1, 1:, :-1], volume[1:, :-1, 1:], atol=1e-4, rtol=0)
    torch.testing.assert_close(warped[-1, 1:, :-1], volume[-1, :-1, 1:], atol=1e-4, rtol=0)  # the border goes on


def test_box_of_the_crop():
    box = crop_box(MODEL, SHAPE_MODEL, SOURCE, SHAPE_SOURCE)
    inside = depth(0.0).nonzero()
    assert [(part.start, part.stop - 1) for part in box] == list(zip(*inside.aminmax(dim=0), strict=True))
    identity = torch.eye(4)
    assert crop_box(identity, (4, 4, 4), identity, (6, 3, 4)) == (slice(0, 4), slice(0, 3), slice(0, 4))


def test_errors():
    identity, field = torch.eye(4), torch.zeros(1, 3, 4, 4, 4)
    with pytest.raises(ValueError, match=r"must be \(P, 3, h, w, d\)"):
        displacement_to_grid(field[0], identity, identity, (4, 4, 4))
    with pytest.raises(ValueError, match="affine_model must be"):
        displacement_to_grid(field, torch.zeros(4, 4), identity, (4, 4, 4))
    with pytest.raises(ValueError, match="displacement"):
        warp_volume(torch.zeros(4, 4, 5), field[0])
    far = identity.clone()
    far[0, 3] = 1e3
    with pytest.raises(ValueError, match="do not overlap"):
        crop_box(far, (4, 4, 4), identity, (4, 4, 4))
