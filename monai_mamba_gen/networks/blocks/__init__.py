"""Blocks that networks are made of."""

from __future__ import annotations

from .convolution import Downsample2d, TimeConvBlock, TimeResBlock, Upsample2d, group_norm
from .embeddings import ConditionEmbedding, Modulation
from .mss_block import MSSBlock
from .ss2d import SS2D, seed_scan_orders
from .ss_layer import SSLayer

__all__ = [
    "ConditionEmbedding",
    "Downsample2d",
    "MSSBlock",
    "Modulation",
    "SS2D",
    "SSLayer",
    "TimeConvBlock",
    "TimeResBlock",
    "Upsample2d",
    "group_norm",
    "seed_scan_orders",
]
