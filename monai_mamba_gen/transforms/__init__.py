"""Dictionary transforms that MONAI lacks."""

from __future__ import annotations

from .body_mask import BodyMaskd
from .check_pair import CheckPaird
from .check_volume import CheckVolumed
from .choose_frame import ChooseFramed
from .choose_slice import ChooseSliced, RestoreSliced
from .heart_crop import HeartCropd
from .load_cine import LoadCined
from .mark_synthetic import MarkSyntheticd
from .mask_background import MaskBackgroundd
from .presence_label import PresenceLabeld
from .resize_center_crop import ResizeCenterCropd
from .restore_grid import RestoreGridd, restore_volume
from .restore_intensity import RestoreIntensityd
from .scale_in_mask import ScaleIntensityInMaskd
from .scale_jointly import ScaleIntensityJointlyd
from .scale_window import ScaleIntensityWindowd
from .select_slices import SelectSlicesd
from .spacing_each import SpacingEachd
from .to_grey import ToGreyd

__all__ = [
    "BodyMaskd",
    "CheckPaird",
    "CheckVolumed",
    "ChooseFramed",
    "ChooseSliced",
    "HeartCropd",
    "LoadCined",
    "MarkSyntheticd",
    "MaskBackgroundd",
    "PresenceLabeld",
    "ResizeCenterCropd",
    "RestoreGridd",
    "RestoreIntensityd",
    "RestoreSliced",
    "ScaleIntensityInMaskd",
    "ScaleIntensityJointlyd",
    "ScaleIntensityWindowd",
    "SelectSlicesd",
    "SpacingEachd",
    "ToGreyd",
    "restore_volume",
]
