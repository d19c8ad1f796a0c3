"""Dictionary transforms that MONAI lacks."""

from __future__ import annotations

from .check_volume import CheckVolumed
from .resize_center_crop import ResizeCenterCropd

__all__ = ["CheckVolumed", "ResizeCenterCropd"]
