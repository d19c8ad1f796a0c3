"""The baselines against what they are defined as."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from monai_mamba_gen.inferers import IntensityBaseline


def items(count=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "image": (source := torch.randint(0, 4, (1, 8, 8), generator=generator) / 2 - 0.75),
            "target": source.square() + 0.1 * torch.randn(1, 8, 8, generator=generator),
            "mask": (torch.rand(1, 8, 8, generator=generator) > 0.3).float(),
        }
        for _ in range(count)
    ]


def test_identity():
    volume = MetaTensor(torch.rand(2, 1, 4, 4, 3) * 2 - 1, affine=torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0])))
    baseline = IntensityBaseline()
    pred = baseline(volume, None)
    assert isinstance(pred, MetaTensor) and torch.equal(pred.affine, volume.affine)
    assert torch.equal(pred.as_tensor(), volume.as_tensor()) and baseline.result["std"] is None
    mask = torch.zeros_like(volume)
    mask[..., 1] = 1
    pred = baseline(volume, None, mask=mask, seeds=[1, 2])
    assert torch.equal(pred[..., 1].as_tensor(), volume[..., 1].as_tensor())
    assert bool((pred[..., [0, 2]] == -1).all()) and baseline.result["mask"].dtype == torch.bool
    assert type(baseline.result["pred"]) is torch.Tensor


def test_map_is_the_mean_of_the_target_inside_the_mask():
    data = items()
    baseline = IntensityBaseline("map", num_bins=64).fit(data)
    source, target, mask = (torch.stack([item[key] for item in data]) for key in ("image", "target", "mask"))
    pred = baseline(source)
    for value in (-0.75, -0.25, 0.25, 0.75):
        expected = target[(source == value) & (mask > 0)].mean()
        torch.testing.assert_close(pred[source == value], expected.expand(int((source == value).sum())))


def test_no_other_function_of_the_value_is_better():
    data = items(8)
    source, target = (torch.stack([item[key] for item in data]) for key in ("image", "target"))
    baseline = IntensityBaseline("map").fit([{key: item[key] for key in ("image", "target")} for item in data])
    error = (baseline(source) - target).square().mean()
    for other in (source, source.square(), baseline(source) + 0.01 * source):
        assert error < (other - target).square().mean()


def test_values_never_seen_lie_between_their_neighbours():
    source = torch.tensor([-0.5, 0.5]).reshape(1, 1, 2)
    baseline = IntensityBaseline("map", num_bins=200).fit([{"image": source, "target": source * 1.5}])
    between = torch.linspace(-0.4, 0.4, 9)[None, None, None]
    torch.testing.assert_close(baseline(between), between * 1.5, atol=0.02, rtol=0)
    assert baseline(torch.tensor([[[[-1.0, 1.0]]]])).flatten().tolist() == [-0.75, 0.75]


def test_table_travels_with_the_state_dict():
    fitted, other = IntensityBaseline("map").fit(items()), IntensityBaseline("map")
    other.load_state_dict(fitted.state_dict())
    image = items(1, seed=3)[0]["image"][None]
    assert torch.equal(fitted(image), other(image))
    assert fitted.describe() == {"sampler": "IntensityBaseline", "mode": "map", "num_bins": 256}


def test_errors():
    image = torch.zeros(1, 1, 4, 4)
    with pytest.raises(ValueError, match="mode must be one of .*, got 'median'"):
        IntensityBaseline("median")
    with pytest.raises(ValueError, match="num_bins must be an integer of at least 2, got 1"):
        IntensityBaseline(num_bins=1)
    with pytest.raises(ValueError, match="must be fit"):
        IntensityBaseline("map")(image)
    with pytest.raises(ValueError, match="mask must have the inputs' shape"):
        IntensityBaseline()(image, mask=torch.zeros(1, 1, 4, 5))
    with pytest.raises(ValueError, match="no voxel inside a mask"):
        IntensityBaseline("map").fit([{"image": image[0], "target": image[0], "mask": image[0]}])
