"""DiffMa's image embedding: the vision tower of BiomedCLIP, from a local file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ...utils.checkpoints import load_tensors, state_dict_mismatch
from ...utils.errors import DataError
from ...utils.optional import import_optional

__all__ = ["BiomedCLIPEmbedding"]

_CONFIG, _WEIGHTS, _PREFIX = "open_clip_config.json", "open_clip_pytorch_model.bin", "visual."
_PUBLISHED = {"timm_model_name": "vit_base_patch16_224", "timm_pool": "", "timm_proj": "linear", "image_size": 224}
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_AIR = -1.0


def _read_config(path: Path) -> tuple[int, dict[str, Any]]:
    """Return embedding size and settings of the vision tower; the published ones where there is no file."""
    if not path.is_file():
        return 512, _PUBLISHED
    try:
        model = json.loads(path.read_text(encoding="utf-8"))["model_cfg"]
        return int(model["embed_dim"]), dict(model["vision_cfg"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a configuration of open_clip ({type(error).__name__}: {error})") from error


class BiomedCLIPEmbedding(nn.Module):
    """
    Embed CT slices by the vision tower of BiomedCLIP (Zhang et al. 2023, arXiv:2303.00915), which is never trained.

    Only the tower is built and loaded, so neither the text tower nor anything from the network is needed. The file is
    read with ``weights_only=True``. As in DiffMa's code the slices are repeated to three channels and enter in [-1, 1],
    without CLIP's normalisation; its embeddings are used as they are, not brought to length 1.

    Slices that are not square are padded with -1 (air) to squares, and resized to 224 x 224.

    Args:
        weights_path: folder of microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224, or its
            ``open_clip_pytorch_model.bin``; ``open_clip_config.json`` beside it is read where it is there.
        clip_normalization: map [-1, 1] to [0, 1] and then to CLIP's mean and standard deviation, as BiomedCLIP was
            trained; DiffMa's published weights have not been.

    Raises:
        ImportError: when open_clip is not installed (extra ``clip``).
        DataError: when a file is missing, damaged, holds pickled code or the weights of another network.

    Example:
        >>> embedding = BiomedCLIPEmbedding("biomedclip")  # doctest: +SKIP
        >>> embedding(torch.zeros(2, 1, 128, 128)).shape  # doctest: +SKIP
        torch.Size([2, 512])
    """

    def __init__(self, weights_path: str | os.PathLike[str], clip_normalization: bool = False) -> None:
        super().__init__()
        path = Path(weights_path)
        path = path / _WEIGHTS if path.is_dir() else path
        self.embed_dim, vision = _read_config(path.with_name(_CONFIG))
        if not vision.get("timm_model_name"):
            raise DataError(f"{path.with_name(_CONFIG)}: no timm_model_name, so this is not BiomedCLIP")
        state = load_tensors(path)
        if not isinstance(state, dict):
            raise DataError(f"{path} holds a {type(state).__name__}, not a state dict")
        tower = {key[len(_PREFIX) :]: value for key, value in state.items() if str(key).startswith(_PREFIX)}
        timm_model = import_optional("open_clip.timm_model", "clip")
        self.image_size, self.clip_normalization = int(vision.get("image_size", 224)), clip_normalization
        self.visual: nn.Module = timm_model.TimmModel(
            vision["timm_model_name"],
            self.embed_dim,
            image_size=self.image_size,
            pool=vision.get("timm_pool", "avg"),
            proj=vision.get("timm_proj", "linear"),
            pretrained=False,
        )
        if (reason := state_dict_mismatch(self.visual, tower)) is not None:
            raise DataError(f"{path} is not BiomedCLIP: {_PREFIX}{reason}")
        self.visual.load_state_dict(tower)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> BiomedCLIPEmbedding:
        """Stay in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, slices: torch.Tensor) -> torch.Tensor:
        """slices (N, 1, H, W) in [-1, 1] -> (N, E), E = 512."""
        height, width = slices.shape[2:]
        rows, columns = max(width - height, 0), max(height - width, 0)
        square = F.pad(slices.float(), (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2), value=_AIR)
        if square.shape[2] != self.image_size:
            size = (self.image_size, self.image_size)
            square = F.interpolate(square, size=size, mode="bicubic", antialias=True).clamp(-1, 1)
        images = square.expand(-1, 3, -1, -1)
        if self.clip_normalization:
            mean, std = (images.new_tensor(values)[:, None, None] for values in (_CLIP_MEAN, _CLIP_STD))
            images = ((images + 1) / 2 - mean) / std
        return self.visual(images)
