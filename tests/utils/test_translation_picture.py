from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_mamba_gen.utils import middle_slice, translation_picture


def tiles(picture, count, gap=2):
    """Cut the tiles out of a picture, without their names."""
    width = (picture.shape[1] + gap) // count - gap
    return [picture[16:, number * (width + gap) : number * (width + gap) + width] for number in range(count)]


def case():
    """4 x 3 voxels, 5 slices; only slice 2 is not black."""
    source, true, pred = (torch.full((4, 3, 5), -1.0) for _ in range(3))
    source[1, 2, 2], true[3, 0, 2], pred[3, 0, 2] = 1.0, 1.0, 0.75
    return source, true, pred


def test_tiles_hold_the_slice_and_the_error():
    picture = translation_picture(*case(), tile_size=4)
    assert picture.dtype == np.uint8 and picture.shape == (16 + 3, 4 * 4 + 3 * 2)
    source, true, pred, error = tiles(picture, 4)
    for tile, place, value in ((source, (2, 1), 255), (true, (0, 3), 255), (pred, (0, 3), 223), (error, (0, 3), 128)):
        expected = np.zeros((3, 4))
        expected[place] = value
        np.testing.assert_array_equal(tile, expected)


def test_without_truth_with_standard_deviation():
    source, _, pred = case()
    std = torch.full_like(pred, 0.5)
    picture = translation_picture(source, None, pred, std, 2, tile_size=4, error_share=0.5)
    assert (tiles(picture, 3)[2] == 128).all()
    assert len(tiles(translation_picture(*case(), std, tile_size=4), 5)) == 5


def test_outside_the_mask_there_is_no_truth():
    mask = torch.zeros(4, 3, 5)
    mask[1, 2] = 1
    _, true, _, error = tiles(translation_picture(*case(), mask=mask, tile_size=4), 4)
    assert not true[0, 3] and not error[0, 3]


@pytest.mark.parametrize(
    ("axes", "place"),
    [
        ("RAS", lambda r, a: (r, a)),
        ("LPS", lambda r, a: (3 - r, 2 - a)),
        ("PRS", lambda r, a: (2 - a, r)),
        ("ALS", lambda r, a: (a, 3 - r)),
    ],
)
def test_right_is_left_and_front_is_up(axes, place):
    """One voxel at the patient's front left, drawn at the upper right whatever the order of the axes."""
    size = (4, 3) if axes[0] in "RL" else (3, 4)
    volume = torch.full((*size, 1), -1.0)
    volume[(*place(0, 2), 0)] = 1.0  # R axis 0 is the far left, A axis 2 the front
    affine = np.eye(4)
    columns = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1)}
    affine[:3, :3] = 0
    for axis, letter in enumerate(axes):
        world, sign = columns[letter]
        affine[world, axis] = sign
    expected = np.zeros((3, 4))
    expected[0, 3] = 255
    np.testing.assert_array_equal(
        tiles(translation_picture(volume, None, volume, affine=affine, tile_size=4), 2)[0], expected
    )


def test_sagittal_slices_have_the_head_up():
    affine = np.array([[0, 0, 1.0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # axes to A, S, R
    volume = torch.full((4, 3, 1), -1.0)
    volume[3, 2, 0] = 1.0  # front, top
    expected = np.zeros((3, 4))
    expected[0, 0] = 255
    np.testing.assert_array_equal(
        tiles(translation_picture(volume, None, volume, affine=affine, tile_size=4), 2)[0], expected
    )


def test_pixels_are_square():
    affine = np.diag([1.0, 2.0, 5.0, 1.0])
    volume = torch.rand(10, 10, 2)
    assert tiles(translation_picture(volume, None, volume, affine=affine, tile_size=20), 2)[0].shape == (20, 10)
    assert tiles(translation_picture(volume, None, volume, affine=affine, tile_size=40), 2)[0].shape == (40, 20)


def test_one_image_and_names():
    image = torch.rand(50, 40)
    flat = translation_picture(image, image, image, image)
    np.testing.assert_array_equal(flat, translation_picture(*[image[..., None]] * 4))
    assert not np.array_equal(flat[:16], translation_picture(image, image, image, image, direction="mr2ct")[:16])


def test_middle_slice():
    mask = torch.zeros(4, 4, 9)
    assert middle_slice(mask) == 4
    mask[2, 2, 7] = 1
    assert middle_slice(mask) == 7


def test_errors():
    source, true, pred = case()
    for arguments, options, message in (
        ((source[:2], true, pred), {}, r"volumes must all be .* source \(2, 3, 5\)"),
        ((source[None], true[None], pred[None]), {}, "volumes must all be"),
        ((source, true, pred, None, 5), {}, "slice_index must be from 0 to 4"),
        ((source, true, pred), {"value_range": (1, 1)}, "value_range"),
        ((source, true, pred), {"direction": "pet"}, "direction"),
        ((source, true, pred), {"error_share": 0}, "error_share"),
    ):
        with pytest.raises(ValueError, match=message):
            translation_picture(*arguments, **options)
