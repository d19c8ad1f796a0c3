"""Networks and the blocks they are made of."""

from __future__ import annotations

from .blocks import SS2D, MSSBlock, SSLayer
from .nets import VMDDPM

__all__ = ["MSSBlock", "SS2D", "SSLayer", "VMDDPM"]
