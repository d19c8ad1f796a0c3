"""The rule that chooses slices."""

import pytest
import torch
from monai.data import MetaTensor

from monai_mamba_gen.data import SliceDataset
from monai_mamba_gen.transforms import SelectSlicesd


def ball(size=41, height=41):
    """A ball of radius 20 in a volume of zeros; slice z has the area pi (400 - z^2)."""
    x, y, z = torch.meshgrid(*(torch.arange(n) - n // 2 for n in (size, size, height)), indexing="ij")
    return ((x**2 + y**2 + z**2 <= 400).float() * 0.7)[None]


def levels(volume, **given):
    mask = SelectSlicesd("image", **given)({"image": volume})["selected"]
    assert mask.shape == volume.shape and mask.dtype == torch.bool
    return mask[0, 0, 0].nonzero().flatten().tolist()


@pytest.mark.parametrize("min_fraction", [0.2, 0.5, 0.9])
def test_a_balls_slices_follow_from_its_area(min_fraction):
    half = 20 * (1 - min_fraction) ** 0.5
    chosen = levels(ball(), min_fraction=min_fraction, every=1)
    assert chosen == list(range(chosen[0], chosen[-1] + 1)) and chosen[0] + chosen[-1] == 40
    assert abs(len(chosen) - 2 * half) <= 1.5


def test_every_nth_of_those_that_qualify():
    every_one = levels(ball(), min_fraction=0.5, every=1)
    for every in (2, 3, 4, 100):
        chosen = levels(ball(), min_fraction=0.5, every=every)
        first = min(every // 2, (len(every_one) - 1) // 2)
        assert chosen == every_one[first::every] and abs(len(chosen) - len(every_one) / every) < 1
    assert levels(ball()) == levels(ball(), min_fraction=0.45, every=4)


def test_background_is_the_darkest_value_and_a_little_more():
    volume = ball() * 2 - 1
    volume += 0.02 * torch.rand(volume.shape)
    assert levels(volume, every=1) == levels(ball(), every=1)
    assert len(levels(volume, every=1, threshold=0.0)) == 41, "noise everywhere"


def test_frames_axes_and_pictures():
    volume = torch.cat([ball(), ball()])
    volume[1, :, :, :20] = 0
    mask = SelectSlicesd("image", every=1)({"image": volume})["selected"]
    assert not mask[1, 0, 0, :20].any() and mask[0, 0, 0, 15:20].all()
    turned = SelectSlicesd("image", every=1, slice_axis=0)({"image": ball().transpose(1, 3)})["selected"]
    assert turned[0, :, 0, 0].nonzero().flatten().tolist() == levels(ball(), every=1)
    assert SelectSlicesd("image")({"image": torch.zeros(1, 5, 6)})["selected"].all()
    constant = SelectSlicesd("image")({"image": torch.zeros(1, 5, 6, 7)})["selected"]
    assert not constant.any(), "nothing is to be seen"


def test_slices_keep_their_places_and_the_cache_knows_the_rule(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"x")
    data, calls = [{"image": str(tmp_path / "a.nii")}], []

    class Load:
        def __init__(self, every):
            self.select = SelectSlicesd("image", every=every)

        def __call__(self, item):
            calls.append(item)
            return self.select({"image": MetaTensor(ball())})

    def places(every):
        given = {"keep_key": "selected", "cache_dir": tmp_path / "cache", "progress": False}
        dataset = SliceDataset(data, Load(every), **given)
        return [(dataset[index]["slice"], dataset[index]["position"]) for index in range(len(dataset))]

    for every in (4, 3, 4):
        assert places(every) == [(level, level / 40) for level in levels(ball(), every=every)]
    assert len(calls) == 2, "the third found its slices, the second had other ones"


def test_arguments():
    for given, message in (
        ({"min_fraction": 1.5}, "min_fraction must be"),
        ({"every": 0}, "every must be"),
        ({"every": 2.0}, "every must be"),
        ({"threshold": 1.0}, "threshold must be"),
        ({"selected_key": ("a", "b")}, "selected_key must name one mask per key"),
    ):
        with pytest.raises(ValueError, match=message):
            SelectSlicesd("image", **given)
    with pytest.raises(ValueError, match="takes .C, X, Y"):
        SelectSlicesd("image")({"image": torch.zeros(5)})
