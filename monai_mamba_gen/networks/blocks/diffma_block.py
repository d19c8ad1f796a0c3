"""The block of DiffMa: two Mambas, one on the tokens and one on the masked tokens, and attention between them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .mamba import Mamba

__all__ = ["DiffMaBlock"]


class DiffMaBlock(nn.Module):
    """
    Plain and soft-masked Mamba, blended token by token, modulated by the condition.

    DiffMa (Wang et al. 2024). With ``h = norm(x) * (1 + scale) + shift``, two Mambas of their own weights give
    ``a = Mamba1(h)`` and ``b = Mamba2(h * w)``; Cross-Sequence Attention weighs them by
    ``g = sigmoid(Linear(SiLU(Linear(norm([a; b])))))``, one number a token, and the output is
    ``x + gate * (g * a + (1 - g) * b)``. Shift, scale and gate come from the condition and start at zero (adaLN-Zero),
    g starts at a half, so that a new block passes x through. Parameter names are the published ones.

    Args:
        hidden_size: channels D of the tokens.
        context_size: size of the condition vector; default ``2 * hidden_size``.
        d_state: see `Mamba`.
        d_conv: see `Mamba`.
        expand: see `Mamba`.
        dt_rank: see `Mamba`.
        scan_backend: see `Mamba`.

    Example:
        >>> block = DiffMaBlock(8)
        >>> x, condition, mask = torch.randn(2, 6, 8), torch.randn(2, 16), torch.rand(2, 6, 1)
        >>> torch.equal(block(x, condition, mask), x)  # a new block passes x through
        True
    """

    def __init__(
        self,
        hidden_size: int,
        context_size: int | None = None,
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2,
        dt_rank: int | str = "auto",
        scan_backend: str | None = None,
    ) -> None:
        super().__init__()
        scan: dict[str, Any] = {"d_state": d_state, "d_conv": d_conv, "expand": expand}
        scan |= {"dt_rank": dt_rank, "scan_backend": scan_backend}
        self.norm1 = nn.LayerNorm(hidden_size)
        self.mamba1 = Mamba(hidden_size, **scan)
        self.mamba2 = Mamba(hidden_size, **scan)
        context_size = 2 * hidden_size if context_size is None else context_size
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(context_size, 3 * hidden_size))
        self.attention_network = nn.Sequential(
            nn.LayerNorm(2 * hidden_size),
            nn.Linear(2 * hidden_size, hidden_size),
            nn.SiLU(),
            nn.Linear(hidden_size, 1),
            nn.Sigmoid(),
        )
        for layer in (self.adaLN_modulation[1], self.attention_network[1], self.attention_network[3]):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, x: torch.Tensor, condition: torch.Tensor, soft_mask: torch.Tensor, orders: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        Args:
            x: tokens (N, T, D).
            condition: (N, context_size).
            soft_mask: weight of each token in the masked sequence, (N, T, 1), in (0, 1).
            orders: orders of the scans (K, T), see `Mamba`.

        Returns:
            (N, T, D).
        """
        shift, scale, gate = self.adaLN_modulation(condition)[:, None].chunk(3, dim=-1)  # (N, 1, D) each
        h = self.norm1(x) * (1 + scale) + shift
        plain, masked = self.mamba1(h, orders), self.mamba2(h * soft_mask, orders)
        weight = self.attention_network(torch.cat([plain, masked], dim=-1))  # (N, T, 1)
        return x + gate * (weight * plain + (1 - weight) * masked)
