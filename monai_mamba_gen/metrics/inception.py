"""Inception-v3 features, the ones the papers' FID is taken on, where the user has the weights."""

from __future__ import annotations

import os

import torch
from torch.nn import functional as F

from ..utils.errors import DataError
from ..utils.optional import import_optional
from .features import FeatureExtractor, to_rgb_255
from .inception_v3 import InceptionV3
from .weights import load_weights_strictly, read_state_dict

__all__ = ["PUBLISHED_SHA256", "InceptionV3Features", "TorchFidelityFeatures"]

# pt_inception-2015-12-05-6726825d.pth of pytorch-fid; torch-fidelity's weights-inception-2015-12-05-6726825d.pth is the
# same file.
PUBLISHED_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


class InceptionV3Features(FeatureExtractor):
    """
    2048 features of Inception-v3 (graph of 2015-12-05), with pytorch-fid's preprocessing.

    Not tested against the real weights, which are not distributed with this package: the network was compared with
    torch-fidelity's on random weights. A distance is labelled FID only when the file is the published one.

    Args:
        weights_path: ``pt_inception-2015-12-05-6726825d.pth``, or a state dict with the same keys.
        sha256: what the file's sha256 has to be; default: not checked. `PUBLISHED_SHA256` is the published file's.

    Raises:
        DataError: when the file is missing, has another sha256, or holds weights of another network, such as
            torchvision's Inception-v3.

    Example:
        >>> extractor = InceptionV3Features("pt_inception-2015-12-05-6726825d.pth")  # doctest: +SKIP
        >>> extractor(torch.zeros(1, 1, 128, 128)).shape  # doctest: +SKIP
        torch.Size([1, 2048])
    """

    dim = 2048
    preprocessing = "rounded to 8 bits, grey to RGB, bilinear resize to 299 x 299, scaled to [-1, 1]"

    def __init__(self, weights_path: str | os.PathLike[str], sha256: str | None = None) -> None:
        super().__init__()
        state, digest = read_state_dict(weights_path, sha256)
        classifier = state.get("fc.weight")
        if classifier is not None and classifier.shape[0] == 1000:
            raise DataError(
                f"{weights_path}: these are torchvision's Inception-v3 weights (1000 classes); FID is defined on the "
                "network of 2015-12-05 (1008 classes)"
            )
        published = digest == PUBLISHED_SHA256
        self.name = "Inception-v3 " + ("(2015-12-05)" if published else f"(weights {digest[:12]})")
        self.distance_label = "FID" if published else "Frechet distance"
        self.network = InceptionV3()
        state = {key: value for key, value in state.items() if not key.startswith(("fc.", "AuxLogits."))}
        load_weights_strictly(self.network, state, weights_path)
        self._freeze()

    def extract(self, images: torch.Tensor) -> torch.Tensor:
        """Resize, normalise, run the network."""
        rgb = F.interpolate(to_rgb_255(images), size=(299, 299), mode="bilinear", align_corners=False)
        return self.network(rgb / 127.5 - 1)


class TorchFidelityFeatures(FeatureExtractor):
    """
    The same features through an installed torch-fidelity, with TensorFlow 1's way of resizing.

    Args:
        weights_path: the published file, checked by sha256 before torch-fidelity opens it. Default: torch-fidelity
            downloads it and opens it by its own rules, unchecked.

    Raises:
        ImportError: when torch-fidelity, or torchvision which it needs, cannot be imported.
        DataError: when weights_path is missing or is not the published file.

    Example:
        >>> extractor = TorchFidelityFeatures("pt_inception-2015-12-05-6726825d.pth")  # doctest: +SKIP
    """

    dim = 2048
    name = "Inception-v3 (2015-12-05, torch-fidelity)"
    preprocessing = "rounded to 8 bits, grey to RGB, TensorFlow 1 bilinear resize to 299 x 299, (x - 128) / 128"
    distance_label = "FID"

    def __init__(self, weights_path: str | os.PathLike[str] | None = None) -> None:
        super().__init__()
        if weights_path is not None:
            read_state_dict(weights_path, PUBLISHED_SHA256)
        module = import_optional("torch_fidelity.feature_extractor_inceptionv3", "fidelity")
        self.network = module.FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=weights_path
        )
        self._freeze()

    def extract(self, images: torch.Tensor) -> torch.Tensor:
        """Hand 8-bit RGB images to torch-fidelity."""
        return self.network(to_rgb_255(images).to(torch.uint8))[0]
