"""The selective scan and scan orders: tensors in, tensors out."""

from __future__ import annotations

from . import _requires_torch as _requires_torch
from .backends import ScanBackend, scan_backends
from .causal_conv import causal_conv1d
from .ordered_scan import ordered_scan
from .reference import selective_scan_ref
from .reorder import scan_expand, scan_merge, scan_reorder
from .scan_order import cross_scan_orders, inverse_order, random_order, regenerate_orders
from .selective_scan import selective_scan
from .space_time_order import SPACE_TIME_PATHS, space_time_orders
from .spiral_order import released_spiral_orders, spiral_orders

__all__ = [
    "SPACE_TIME_PATHS",
    "ScanBackend",
    "causal_conv1d",
    "cross_scan_orders",
    "inverse_order",
    "ordered_scan",
    "random_order",
    "regenerate_orders",
    "released_spiral_orders",
    "scan_backends",
    "scan_expand",
    "scan_merge",
    "scan_reorder",
    "selective_scan",
    "selective_scan_ref",
    "space_time_orders",
    "spiral_orders",
]
