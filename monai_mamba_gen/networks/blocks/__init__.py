"""Blocks that networks are made of."""

from __future__ import annotations

from .biomed_clip import BiomedCLIPEmbedding
from .context_embedding import ContextEmbedding
from .convolution import Downsample2d, TimeConvBlock, TimeResBlock, Upsample2d, group_norm
from .diffma_block import DiffMaBlock
from .diffma_orders import SCAN_ORDERS, diffma_orders
from .directional_scan import DirectionalScan
from .displacement import StatelessWarp, integrate_velocity, warp_frames
from .embeddings import ConditionEmbedding, Modulation
from .frame_embedding import FrameEmbedding
from .mamba import Mamba
from .memory_layout import arrange_for_convolution
from .mss_block import MSSBlock
from .mst_block import MSTBlock
from .padding import pad_to_multiple
from .patch_tokens import PatchHead, PatchTokens, position_table
from .phases import expand_phases
from .scriptable import ScriptableDenoiser, portable_trace
from .sinusoid_embedding import SinusoidEmbedding
from .space_time_scan import SpaceTimeScan
from .ss2d import SS2D, seed_scan_orders
from .ss_layer import SSLayer
from .timesteps import expand_timesteps

__all__ = [
    "ConditionEmbedding",
    "ContextEmbedding",
    "DiffMaBlock",
    "DirectionalScan",
    "Downsample2d",
    "FrameEmbedding",
    "MSSBlock",
    "MSTBlock",
    "Mamba",
    "Modulation",
    "PatchHead",
    "PatchTokens",
    "SCAN_ORDERS",
    "SS2D",
    "SSLayer",
    "ScriptableDenoiser",
    "SinusoidEmbedding",
    "SpaceTimeScan",
    "TimeConvBlock",
    "TimeResBlock",
    "Upsample2d",
    "StatelessWarp",
    "arrange_for_convolution",
    "diffma_orders",
    "expand_phases",
    "expand_timesteps",
    "group_norm",
    "integrate_velocity",
    "pad_to_multiple",
    "portable_trace",
    "position_table",
    "seed_scan_orders",
    "warp_frames",
    "BiomedCLIPEmbedding",
]
