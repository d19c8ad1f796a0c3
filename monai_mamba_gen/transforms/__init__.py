"""Dictionary transforms that MONAI lacks."""

from __future__ import annotations

from .body_mask import BodyMaskd
from .check_pair import CheckPaird
from .check_volume import CheckVolumed
from .heart_crop import HeartCropd
from .load_cine import LoadCined
from .mask_background import MaskBackgroundd
from .resize_center_crop import ResizeCenterCropd
from .restore_grid import RestoreGridd, restore_volume
from .scale_in_mask import ScaleIntensityInMaskd
from .scale_jointly import ScaleIntensityJointlyd
from .scale_window import ScaleIntensityWindowd
from .spacing_each import SpacingEachd

__all__ = [
    "BodyMaskd",
    "CheckPaird",
    "CheckVolumed",
    "HeartCropd",
    "LoadCined",
    "MaskBackgroundd",
    "ResizeCenterCropd",
    "RestoreGridd",
    "ScaleIntensityInMaskd",
    "ScaleIntensityJointlyd",
    "ScaleIntensityWindowd",
    "SpacingEachd",
    "restore_volume",
]
