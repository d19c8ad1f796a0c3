"""Feature extractors: from images to the vectors that distances are taken on."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..utils.seeding import keyed_generator

__all__ = ["FeatureExtractor", "ModuleFeatures", "RandomConvFeatures", "extract_features", "to_rgb_255"]


def to_rgb_255(images: torch.Tensor) -> torch.Tensor:
    """Map (N, 1, H, W) in [-1, 1] to (N, 3, H, W) with whole numbers 0..255, as from an 8-bit PNG."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).expand(-1, 3, -1, -1)


class FeatureExtractor(nn.Module):
    """
    Base of all extractors: always in evaluation mode, without gradients, with its inputs and outputs checked.

    A subclass sets the attributes and implements `extract`.

    Attributes:
        name: names the network and its weights; goes into caches and reports.
        preprocessing: says what happens to an image before the network; goes into caches and reports.
        dim: length D of a feature vector.
        distance_label: what the Frechet distance on these features is called.
    """

    name: str
    preprocessing: str
    dim: int
    distance_label: str = "Frechet distance"

    def extract(self, images: torch.Tensor) -> torch.Tensor:
        """Map (N, 1, H, W) in [-1, 1] to (N, D)."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """
        Map images to features.

        Args:
            images: (N, 1, H, W) in [-1, 1].

        Returns:
            (N, D), float32.

        Raises:
            ValueError: when images, or what the network returns, has another shape.
        """
        if images.ndim != 4 or images.shape[1] != 1:
            raise ValueError(f"images must be (N, 1, H, W), got {tuple(images.shape)}")
        features = self.extract(images)
        expected = (images.shape[0], self.dim)
        if tuple(features.shape) != expected:
            raise ValueError(f"{self.name}: features must be {expected}, got {tuple(features.shape)}")
        return features.float()

    def train(self, mode: bool = True) -> FeatureExtractor:
        """Stay in evaluation mode, whatever is asked."""
        return super().train(False)

    def fingerprint(self) -> str:
        """Return a hash of name, preprocessing and every weight; two extractors with one fingerprint agree."""
        digest = hashlib.sha256(f"{self.name}\n{self.preprocessing}\n{self.dim}\n".encode())
        for key, value in self.state_dict().items():
            digest.update(key.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _freeze(self) -> None:
        """To be called at the end of a subclass's ``__init__``."""
        self.requires_grad_(False)
        self.eval()


class ModuleFeatures(FeatureExtractor):
    """
    Any module of yours as an extractor.

    Args:
        module: maps (N, 1, H, W) in [-1, 1] to (N, D), (N, D, 1, 1) or (N, D, 1, 1, 1).
        name: names the network and its weights.
        preprocessing: says what the module does to an image first.
        dim: length D; default: found out with one black 64 x 64 image.

    Raises:
        ValueError: when name or preprocessing is empty.

    Example:
        >>> ModuleFeatures(nn.Flatten(), "pixels", "none", dim=16)(torch.zeros(2, 1, 4, 4)).shape
        torch.Size([2, 16])
    """

    def __init__(self, module: nn.Module, name: str, preprocessing: str, dim: int | None = None) -> None:
        super().__init__()
        if not name or not preprocessing:
            raise ValueError(f"name and preprocessing must not be empty, got {name!r} and {preprocessing!r}")
        self.module, self.name, self.preprocessing = module, name, preprocessing
        self._freeze()
        if dim is None:
            with torch.no_grad():
                dim = self.extract(torch.full((1, 1, 64, 64), -1.0)).shape[1]
        self.dim = dim

    def extract(self, images: torch.Tensor) -> torch.Tensor:
        """Run the module and drop trailing dimensions of size 1."""
        features = self.module(images)
        while features.ndim > 2 and features.shape[-1] == 1:
            features = features.squeeze(-1)
        return features


class RandomConvFeatures(FeatureExtractor):
    """
    Three random convolutions, fixed by a seed: needs no file, for tests and offline trials.

    Args:
        dim: length of a feature vector, at least 1.
        seed: names the weights.

    Raises:
        ValueError: when dim is below 1.

    Example:
        >>> RandomConvFeatures(dim=8)(torch.zeros(2, 1, 16, 16)).shape
        torch.Size([2, 8])
    """

    def __init__(self, dim: int = 64, seed: int = 0) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        self.dim = dim
        self.name = f"random convolutions (dim {dim}, seed {seed})"
        self.preprocessing = "none, images in [-1, 1]"
        generator = keyed_generator(seed, "random convolutions")
        channels = (1, 16, 32, dim)
        for index in range(3):
            inputs, outputs = channels[index : index + 2]
            weight = torch.randn(outputs, inputs, 3, 3, generator=generator) * (2 / (9 * inputs)) ** 0.5
            self.register_buffer(f"weight{index}", weight)
            self.register_buffer(f"bias{index}", 0.1 * torch.randn(outputs, generator=generator))
        self._freeze()

    def extract(self, images: torch.Tensor) -> torch.Tensor:
        """Convolve with stride 2 and ReLU three times, then average over the image."""
        hidden = images.float()
        for index in range(3):
            weight, bias = getattr(self, f"weight{index}"), getattr(self, f"bias{index}")
            hidden = F.relu(F.conv2d(hidden, weight, bias, stride=2, padding=1))
        return hidden.mean(dim=(2, 3))


def extract_features(
    extractor: FeatureExtractor | Any, images: torch.Tensor, batch_size: int = 32, device: Any = None
) -> torch.Tensor:
    """
    Run an extractor over many images in batches.

    Args:
        extractor: maps (N, 1, H, W) in [-1, 1] to (N, D).
        images: (N, 1, H, W) in [-1, 1].
        batch_size: images at once.
        device: where the batches go; the extractor has to be there. Default: where the images are.

    Returns:
        (N, D), float32, on the CPU.
    """
    if len(images) == 0:
        return torch.zeros(0, extractor.dim)
    return torch.cat([extractor(batch.to(device or batch.device)).cpu() for batch in images.split(batch_size)])
