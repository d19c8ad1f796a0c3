import pytest
import torch
from torch import nn

from monai_mamba_gen.metrics import ModuleFeatures, RandomConvFeatures, extract_features, frechet_distance
from monai_mamba_gen.metrics.feature_set import FeatureSet
from monai_mamba_gen.metrics.features import to_rgb_255


def randu(n, size=16, seed=0):
    return torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_random_convolutions_are_fixed_by_the_seed():
    a, b, c = RandomConvFeatures(8), RandomConvFeatures(8), RandomConvFeatures(8, seed=1)
    images = randu(3)
    assert torch.equal(a(images), b(images))
    assert not torch.allclose(a(images), c(images))
    assert a.fingerprint() == b.fingerprint() != c.fingerprint()
    assert a.distance_label == "Frechet distance"
    assert "seed 0" in a.name and a.preprocessing


def test_random_convolutions_order_noise():
    extractor = RandomConvFeatures(8)

    def moments(images):
        features = extract_features(extractor, images)
        return FeatureSet(features, torch.arange(len(features))).moments

    smooth = nn.functional.interpolate(randu(64, size=4), size=(16, 16), mode="bilinear")
    held_out = nn.functional.interpolate(randu(64, size=4, seed=1), size=(16, 16), mode="bilinear")
    little, much = (held_out + sd * randu(64, seed=2) for sd in (0.3, 0.8))
    distances = [frechet_distance(moments(smooth), moments(x)) for x in (held_out, little, much)]
    assert distances[0] < distances[1] < distances[2]


def test_always_in_evaluation_mode_without_gradients():
    extractor = ModuleFeatures(nn.Sequential(nn.Conv2d(1, 3, 3), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1)), "a", "none")
    assert extractor.dim == 3
    assert extractor.train().training is False
    assert extractor.module[1].training is False
    features = extractor(randu(2).requires_grad_())
    assert features.shape == (2, 3)
    assert not features.requires_grad
    assert all(not parameter.requires_grad for parameter in extractor.parameters())


def test_fingerprint_follows_the_weights():
    extractor = ModuleFeatures(nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1)), "a", "none")
    before = extractor.fingerprint()
    extractor.module[0].weight.data[0, 0, 0, 0] += 1
    assert extractor.fingerprint() != before


def test_batches_do_not_matter():
    extractor = RandomConvFeatures(8)
    images = randu(7)
    torch.testing.assert_close(extract_features(extractor, images, batch_size=3), extractor(images))
    assert extract_features(extractor, images[:0]).shape == (0, 8)


def test_rgb_is_what_an_8_bit_png_holds():
    values = torch.tensor([-1.5, -1.0, 0.0, 1.0, 2.0]).reshape(1, 1, 1, 5)
    rgb = to_rgb_255(values)
    assert rgb.shape == (1, 3, 1, 5)
    assert rgb[0, 0, 0].tolist() == [0, 0, 128, 255, 255]
    assert torch.equal(rgb[:, 0], rgb[:, 2])


def test_bad_arguments():
    with pytest.raises(ValueError, match="dim must be at least 1"):
        RandomConvFeatures(0)
    with pytest.raises(ValueError, match="must not be empty"):
        ModuleFeatures(nn.Flatten(), "", "none")
    with pytest.raises(ValueError, match=r"images must be \(N, 1, H, W\)"):
        RandomConvFeatures(4)(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match="features must be"):
        ModuleFeatures(nn.Flatten(), "pixels", "none", dim=10)(torch.zeros(1, 1, 4, 4))
