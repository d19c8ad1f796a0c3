"""The selective scan and scan orders: tensors in, tensors out."""

from __future__ import annotations

from .reference import selective_scan_ref
from .reorder import scan_expand, scan_merge, scan_reorder
from .scan_order import cross_scan_orders, inverse_order, random_order, regenerate_orders
from .selective_scan import ScanBackend, scan_backends, selective_scan

__all__ = [
    "ScanBackend",
    "cross_scan_orders",
    "inverse_order",
    "random_order",
    "regenerate_orders",
    "scan_backends",
    "scan_expand",
    "scan_merge",
    "scan_reorder",
    "selective_scan",
    "selective_scan_ref",
]
