"""Dictionary transforms that MONAI lacks."""

from __future__ import annotations

from .check_volume import CheckVolumed
from .heart_crop import HeartCropd
from .load_cine import LoadCined
from .resize_center_crop import ResizeCenterCropd
from .restore_grid import RestoreGridd
from .scale_jointly import ScaleIntensityJointlyd
from .spacing_each import SpacingEachd

__all__ = [
    "CheckVolumed",
    "HeartCropd",
    "LoadCined",
    "ResizeCenterCropd",
    "RestoreGridd",
    "ScaleIntensityJointlyd",
    "SpacingEachd",
]
