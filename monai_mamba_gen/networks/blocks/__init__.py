"""Blocks that networks are made of."""

from __future__ import annotations

from .convolution import Downsample2d, TimeConvBlock, TimeResBlock, Upsample2d, group_norm
from .directional_scan import DirectionalScan
from .displacement import StatelessWarp, integrate_velocity, warp_frames
from .embeddings import ConditionEmbedding, Modulation
from .frame_embedding import FrameEmbedding
from .memory_layout import arrange_for_convolution
from .mss_block import MSSBlock
from .mst_block import MSTBlock
from .padding import pad_to_multiple
from .phases import expand_phases
from .space_time_scan import SpaceTimeScan
from .ss2d import SS2D, seed_scan_orders
from .ss_layer import SSLayer
from .timesteps import expand_timesteps

__all__ = [
    "ConditionEmbedding",
    "DirectionalScan",
    "Downsample2d",
    "FrameEmbedding",
    "MSSBlock",
    "MSTBlock",
    "Modulation",
    "SS2D",
    "SSLayer",
    "SpaceTimeScan",
    "TimeConvBlock",
    "TimeResBlock",
    "Upsample2d",
    "StatelessWarp",
    "arrange_for_convolution",
    "expand_phases",
    "expand_timesteps",
    "group_norm",
    "integrate_velocity",
    "pad_to_multiple",
    "seed_scan_orders",
    "warp_frames",
]
