"""The generators, one file a paper."""

from __future__ import annotations

from .cine_models import CINE_MODELS, cine_model
from .ddm_unet import DDMUNet
from .deformable_diffusion import DeformableDiffusion
from .linear_blend import LinearBlend
from .mstg import MSTG
from .vm_ddpm import VMDDPM

__all__ = ["CINE_MODELS", "DDMUNet", "DeformableDiffusion", "LinearBlend", "MSTG", "VMDDPM", "cine_model"]
