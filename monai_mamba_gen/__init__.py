"""Mamba diffusion generators of medical images, as MONAI networks and config-only MONAI bundles."""

from __future__ import annotations

__version__ = "0.1.0"
