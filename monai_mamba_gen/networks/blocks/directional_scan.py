"""The parameters of a selective scan in K directions, and the scan of a grid's cells along them."""

from __future__ import annotations

import math

import torch
from torch import nn

from ...ops import ordered_scan
from .pointwise import pointwise

__all__ = ["DirectionalScan"]


class DirectionalScan(nn.Module):
    """
    Selective scan of a grid in K orders, each with its own projections; base of `SS2D` and `SpaceTimeScan`.

    VMamba (Liu et al. 2024), SS2D: step sizes, B and C are projected from the cells, once for each direction; the K
    results are added cell by cell. Names, shapes and start values of the parameters are VMamba's.

    Args:
        d_model: channels of the module's input; the rank of the step sizes follows from it.
        d_state: state size S of the scan.
        expand: inner channels as a multiple of ``d_model``.
        dt_rank: rank of the step-size projection; ``"auto"`` is ``ceil(d_model / 16)``.
        directions: number K of orders.
        scan_backend: backend of `ordered_scan`; default the fastest.

    Raises:
        ValueError: when an argument is out of range.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        expand: float = 2,
        dt_rank: int | str = "auto",
        directions: int = 4,
        scan_backend: str | None = None,
    ) -> None:
        super().__init__()
        if isinstance(dt_rank, str) and dt_rank != "auto":
            raise ValueError(f"dt_rank must be an integer or 'auto', got {dt_rank!r}")
        if d_model < 1 or d_state < 1 or int(expand * d_model) < 1:
            raise ValueError(f"d_model, d_state and expand must be positive, got {d_model}, {d_state} and {expand}")
        self.d_state = d_state
        self.d_inner = int(expand * d_model)
        self.dt_rank = math.ceil(d_model / 16) if dt_rank == "auto" else int(dt_rank)
        self.directions = directions
        self.scan_backend = scan_backend

    def add_scan_parameters(self) -> None:
        """Register the scan's parameters; apart from the constructor, so that others may come before them."""
        inner, k = self.d_inner, self.directions
        self.x_proj_weight = nn.Parameter(torch.empty(k, self.dt_rank + 2 * self.d_state, inner))
        self.dt_projs_weight = nn.Parameter(torch.empty(k, inner, self.dt_rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(k, inner))
        self.A_logs = nn.Parameter(torch.empty(k * inner, self.d_state))
        self.Ds = nn.Parameter(torch.empty(k * inner))

    @torch.no_grad()
    def reset_scan_parameters(self, dt_min: float = 1e-3, dt_max: float = 0.1, dt_floor: float = 1e-4) -> None:
        """Initialise the scan as Mamba does: log-uniform step sizes, A = -1..-S, D = 1."""
        bound = self.d_inner**-0.5
        self.x_proj_weight.uniform_(-bound, bound)  # nn.Linear's default
        self.dt_projs_weight.uniform_(-(self.dt_rank**-0.5), self.dt_rank**-0.5)
        log_dt = torch.empty_like(self.dt_projs_bias).uniform_(math.log(dt_min), math.log(dt_max))
        dt = log_dt.exp().clamp(min=dt_floor)
        self.dt_projs_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus
        self.A_logs.copy_(torch.arange(1, self.d_state + 1).log().expand_as(self.A_logs))
        self.Ds.fill_(1.0)
        for parameter in (self.A_logs, self.Ds):
            parameter._no_weight_decay = True

    def scan(self, tokens: torch.Tensor, orders: torch.Tensor) -> torch.Tensor:
        """Scan (N, L, E) in the orders (K, L) and add the results: (N, L, E), cells in the order of the input."""
        k, rank, state = self.directions, self.dt_rank, self.d_state
        # Projections are per cell, so that they need no order; those of one kind are put side by side.
        split = (rank, state, state)
        weight = torch.cat([part.flatten(0, 1) for part in self.x_proj_weight.split(split, dim=1)])
        dt, B, C = pointwise(tokens, weight).split([k * n for n in split], dim=-1)  # (N, L, K R), twice (N, L, K S)
        dt = pointwise(dt, self.dt_projs_weight.flatten(0, 1), groups=k).unflatten(-1, (k, -1))  # (N, L, K, E)
        B, C = (m.unflatten(-1, (k, -1)) for m in (B, C))  # (N, L, K, S)
        A = -torch.exp(self.A_logs.float() if self.A_logs.dtype != torch.float64 else self.A_logs)
        return ordered_scan(
            tokens,
            dt,
            A.unflatten(0, (k, -1)),
            B,
            C,
            D=self.Ds.unflatten(0, (k, -1)),
            delta_bias=self.dt_projs_bias,
            orders=orders,
            delta_softplus=True,
            backend=self.scan_backend,
        )
