"""Cut and put together again: any axis, any batch size, masks."""

from __future__ import annotations

import pytest
import torch

from monai_mamba_gen.inferers.volume_slices import VolumeSlices


@pytest.mark.parametrize("axis", [-3, -2, -1, 0, 1, 2])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_round_trip(axis, size):
    volume = torch.randn(2, 1, 4, 5, 6)
    slices = VolumeSlices(volume, None, axis)
    stack = slices.empty(7.0)
    levels = []
    for places in slices.batches(size):
        assert len(places) <= size
        slices.put(stack, places, slices.take(places))
        levels += places
    assert len(levels) == len(set(levels)) == 2 * volume.shape[2:][axis]
    assert torch.equal(slices.restored(stack, 0.0), volume)
    assert torch.equal(slices.take([(1, 2)])[0], volume[1].select(axis % 3 + 1, 2))


def test_mask():
    volume, mask = torch.randn(2, 1, 4, 4, 5), torch.zeros(2, 1, 4, 4, 5)
    mask[0, 0, 1, 1, 2] = mask[1, 0, :2, :, 4] = 1
    slices = VolumeSlices(volume, mask)
    assert slices.batches(8) == [[(0, 2), (1, 4)]]
    restored = slices.restored(slices.empty(0.5), -1.0)
    assert torch.equal(restored, torch.where(mask > 0, 0.5, -1.0))
    assert VolumeSlices(volume, torch.zeros_like(volume)).batches(8) == []


def test_positions():
    slices = VolumeSlices(torch.zeros(2, 1, 4, 4, 5), None)
    assert slices.positions([(0, 0), (1, 1), (0, 4)]).tolist() == [0.0, 0.25, 1.0]
    assert VolumeSlices(torch.zeros(1, 1, 4, 4, 1), None).positions([(0, 0)]).tolist() == [0.0]
    flat = torch.zeros(3, 1, 4, 4)
    assert VolumeSlices(flat, None).positions([(2, 0)]).tolist() == [0.0]
    assert VolumeSlices(flat, None, position=torch.tensor([0.0, 0.5, 1.0])).positions([(1, 0), (2, 0)]).tolist() == [
        0.5,
        1,
    ]


def test_slices_count_as_volumes_of_one_level():
    images = torch.randn(3, 1, 4, 5)
    slices = VolumeSlices(images, None, slice_axis=0)
    assert slices.batches(2) == [[(0, 0), (1, 0)], [(2, 0)]]
    stack = slices.empty(0.0)
    slices.put(stack, [(0, 0), (1, 0), (2, 0)], images)
    assert torch.equal(slices.restored(stack, 0.0), images)


def test_errors():
    volume = torch.zeros(2, 1, 4, 4, 5)
    with pytest.raises(ValueError, match=r"inputs must be .*, got \(2, 4, 4\)"):
        VolumeSlices(torch.zeros(2, 4, 4), None)
    with pytest.raises(ValueError, match=r"mask must have the inputs' shape \(2, 1, 4, 4, 5\), got \(1, 1, 4, 4, 5\)"):
        VolumeSlices(volume, volume[:1])
    with pytest.raises(ValueError, match="position is for slices"):
        VolumeSlices(volume, None, position=torch.zeros(2))
