"""Mamba's block, read in one or several orders with the same weights."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from ...ops import causal_conv1d, inverse_order, selective_scan
from .pointwise import pointwise

__all__ = ["Mamba"]


class Mamba(nn.Module):
    """
    Mamba block (Gu & Dao 2023, figure 3) over a sequence, or over the cells of a grid in several orders.

    The tokens are projected to a sequence and a gate. In each order the sequence passes a causal depthwise convolution,
    a SiLU and a selective scan, all orders with the same weights; the results are put back in the order of the cells
    and added, gated by ``silu(gate)`` and projected back. Gate and projection commute with reordering and sum, so they
    run once, and the numbers are those of a block of its own for each order, added. Names and shapes of the parameters
    are those of ``mamba_ssm.Mamba``, so its weights load strictly. The step sizes start where Mamba's do: log-uniform
    in [0.001, 0.1]. Keep them out of any initialisation that a network applies to all its linear layers.

    Args:
        d_model: channels of the tokens.
        d_state: state size S of the scan.
        d_conv: width of the causal convolution.
        expand: inner channels E as a multiple of ``d_model``.
        dt_rank: rank R of the step-size projection; ``"auto"`` is ``ceil(d_model / 16)``.
        scan_backend: backend of `selective_scan`; default the fastest.

    Raises:
        ValueError: when an argument is out of range.

    Example:
        >>> from monai_mamba_gen.ops import spiral_orders
        >>> block, tokens = Mamba(8), torch.randn(2, 12, 8)
        >>> block(tokens).shape, block(tokens, spiral_orders(3, 4)).shape
        (torch.Size([2, 12, 8]), torch.Size([2, 12, 8]))
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2,
        dt_rank: int | str = "auto",
        scan_backend: str | None = None,
    ) -> None:
        super().__init__()
        if isinstance(dt_rank, str) and dt_rank != "auto":
            raise ValueError(f"dt_rank must be an integer or 'auto', got {dt_rank!r}")
        rank = math.ceil(d_model / 16) if dt_rank == "auto" else int(dt_rank)
        inner = int(expand * d_model)
        for name, value in {"d_model": d_model, "d_state": d_state, "d_conv": d_conv, "dt_rank": rank}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if inner < 1:
            raise ValueError(f"expand must leave at least one inner channel, got {expand}")
        self.d_model, self.d_state, self.d_inner, self.dt_rank = d_model, d_state, inner, rank
        self.scan_backend = scan_backend
        self.A_log = nn.Parameter(torch.empty(inner, d_state))
        self.D = nn.Parameter(torch.empty(inner))
        self.in_proj = nn.Linear(d_model, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, d_conv, groups=inner, padding=d_conv - 1)
        self.x_proj = nn.Linear(inner, rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.out_proj = nn.Linear(inner, d_model, bias=False)
        self.reset_scan_parameters()

    @torch.no_grad()
    def reset_scan_parameters(self, dt_min: float = 1e-3, dt_max: float = 0.1, dt_floor: float = 1e-4) -> None:
        """Initialise the scan as Mamba does: log-uniform step sizes, A = -1..-S, D = 1."""
        bound = self.dt_rank**-0.5
        self.dt_proj.weight.uniform_(-bound, bound)
        log_dt = torch.empty_like(self.dt_proj.bias).uniform_(math.log(dt_min), math.log(dt_max))
        dt = log_dt.exp().clamp(min=dt_floor)
        self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus
        states = torch.arange(1, self.d_state + 1, device=self.A_log.device)
        self.A_log.copy_(states.log().expand_as(self.A_log))
        self.D.fill_(1.0)
        for parameter in (self.A_log, self.D):
            parameter._no_weight_decay = True

    def forward(self, tokens: torch.Tensor, orders: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            tokens: (N, L, C).
            orders: (K, L) int64, every row a permutation: sequence k visits token ``orders[k, t]`` at time t. None: one
                sequence, the tokens as they come.

        Returns:
            (N, L, C), in the order of the input.
        """
        x, gate = pointwise(tokens, self.in_proj.weight).chunk(2, dim=-1)  # (N, L, E) each
        if orders is None:
            y = self._scan(x)
        else:
            sequences = torch.stack([x.index_select(1, order) for order in orders.unbind()], dim=1)  # (N, K, L, E)
            y = self._scan(sequences.flatten(0, 1)).unflatten(0, sequences.shape[:2])
            y = sum(part.index_select(1, order) for part, order in zip(y.unbind(1), inverse_order(orders).unbind()))
        return pointwise(y * F.silu(gate), self.out_proj.weight)

    def _scan(self, sequences: torch.Tensor) -> torch.Tensor:
        """Convolution, SiLU and selective scan of sequences in their own order, (M, L, E) -> (M, L, E)."""
        u = causal_conv1d(sequences.transpose(1, 2), self.conv1d.weight[:, 0], self.conv1d.bias, activation="silu")
        split = (self.dt_rank, self.d_state, self.d_state)
        dt, B, C = pointwise(u.transpose(1, 2), self.x_proj.weight).split(split, dim=-1)  # (M, L, R or S)
        dt = pointwise(dt, self.dt_proj.weight)  # (M, L, E)
        y = selective_scan(
            u,
            dt.transpose(1, 2),
            -torch.exp(self.A_log.float() if self.A_log.dtype != torch.float64 else self.A_log),
            B.transpose(1, 2),
            C.transpose(1, 2),
            D=self.D,
            delta_bias=self.dt_proj.bias,
            delta_softplus=True,
            backend=self.scan_backend,
        )  # (M, E, L)
        return y.transpose(1, 2)
