"""Losses that MONAI lacks."""

from __future__ import annotations

from .autoencoder import AutoencoderLoss
from .deformable_diffusion import DeformableDiffusionLoss
from .hybrid_diffusion import HybridDiffusionLoss
from .info_nce import InfoNCELoss
from .patch_adversary import PatchAdversary

__all__ = [
    "AutoencoderLoss",
    "DeformableDiffusionLoss",
    "HybridDiffusionLoss",
    "InfoNCELoss",
    "PatchAdversary",
]
