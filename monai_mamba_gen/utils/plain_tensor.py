"""A tensor without what MONAI adds to it."""

from __future__ import annotations

from typing import Any

from monai.data import MetaTensor

__all__ = ["plain_tensor"]


def plain_tensor(value: Any) -> Any:
    """
    Return a MONAI ``MetaTensor`` as the tensor it holds, without geometry; anything else as it is.

    Example:
        >>> import torch
        >>> plain_tensor("patient001"), plain_tensor(MetaTensor(torch.ones(1)))
        ('patient001', tensor([1.]))
    """
    return value.as_tensor() if isinstance(value, MetaTensor) else value
