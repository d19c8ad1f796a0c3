"""The generators, one file a paper."""

from __future__ import annotations

from .cine_models import CINE_MODELS, cine_model
from .concat_conditioned import ConcatConditioned
from .contrastive_embedder import ContrastiveEmbedder
from .ddm_unet import DDMUNet
from .deformable_diffusion import DeformableDiffusion
from .diffma import DiffMa
from .latent_space import LatentSpace
from .linear_blend import LinearBlend
from .mstg import MSTG
from .translation_models import TRANSLATION_MODELS, translation_model
from .translation_parts import image_embedder, named_latent_space
from .vision_embedder import VisionEmbedder
from .vm_ddpm import VMDDPM

__all__ = [
    "CINE_MODELS",
    "ConcatConditioned",
    "ContrastiveEmbedder",
    "DDMUNet",
    "DeformableDiffusion",
    "DiffMa",
    "LatentSpace",
    "LinearBlend",
    "MSTG",
    "TRANSLATION_MODELS",
    "VMDDPM",
    "VisionEmbedder",
    "cine_model",
    "image_embedder",
    "named_latent_space",
    "translation_model",
]
