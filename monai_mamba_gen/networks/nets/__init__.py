"""The generators, one file a paper."""

from __future__ import annotations

from .vm_ddpm import VMDDPM

__all__ = ["VMDDPM"]
