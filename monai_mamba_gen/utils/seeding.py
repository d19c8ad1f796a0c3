"""Random streams named by what they are for, so that a result depends on its key alone and not on who ran before."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

__all__ = ["derive_seed", "keyed_generator", "per_sample_randn"]


def derive_seed(*key: int | str) -> int:
    """
    Map a key such as ``(seed, "noise", epoch, index)`` to a 63-bit seed.

    Unlike ``seed + epoch``, two different keys never share a stream by accident, and the value is the same on every
    machine, process and Python version.

    Args:
        key: integers and strings that name the stream; their order matters.

    Returns:
        An integer in ``[0, 2**63)``.

    Raises:
        ValueError: when the key is empty or holds something other than integers and strings.

    Example:
        >>> derive_seed(0, "noise", 1) == derive_seed(0, "noise", 1)
        True
    """
    if not key or any(isinstance(part, bool) or not isinstance(part, (int, str)) for part in key):
        raise ValueError(f"key must be a non-empty sequence of int and str, got {key!r}")
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def keyed_generator(*key: int | str) -> torch.Generator:
    """Return a CPU generator seeded by `derive_seed` of the same key."""
    return torch.Generator().manual_seed(derive_seed(*key))


def per_sample_randn(
    generators: Sequence[torch.Generator],
    shape: Sequence[int],
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """
    Draw standard normal noise, one generator per sample.

    Args:
        generators: N CPU generators; each advances by one draw of ``shape``.
        shape: shape of one sample, without the batch dimension.
        device: where the result goes; the draw itself is always on the CPU, so devices agree.
        dtype: dtype of the result; the draw itself is always float32.

    Returns:
        Tensor (N, *shape).
    """
    noise = torch.stack([torch.randn(tuple(shape), generator=generator) for generator in generators])
    return noise.to(device=device, dtype=dtype)
