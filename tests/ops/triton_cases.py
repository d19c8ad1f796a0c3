"""Arguments of the scan in canonical form, its definition as a float64 loop, and the comparison with it."""

from __future__ import annotations

import torch
import torch.nn.functional as F

NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias")
FORWARD, GRADIENT = 1e-6, 5e-6  # largest error, in parts of the largest value

Case = dict[str, torch.Tensor | None]


def make_case(
    batch: int,
    sets: int,
    channels: int,
    length: int,
    states: int,
    *,
    channel_last: bool = True,
    shared: bool = True,
    ordered: bool = True,
    optional: bool = True,
) -> Case:
    """Random float32 arguments; channel-last memory as a network lays it out, or every tensor contiguous."""
    generator = torch.Generator().manual_seed(length + 100 * channels)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    if channel_last:
        u = draw(batch, length, 1 if shared else sets, channels).permute(0, 2, 3, 1)
        delta = draw(batch, length, sets, channels).permute(0, 2, 3, 1)
        both = draw(batch, length, sets, 3 + 2 * states)
        B, C = both[..., 3 : 3 + states].permute(0, 2, 3, 1), both[..., 3 + states :].permute(0, 2, 3, 1)
    else:
        u, delta = draw(batch, 1 if shared else sets, channels, length), draw(batch, sets, channels, length)
        B, C = draw(batch, sets, states, length), draw(batch, sets, states, length)
    return {
        "u": u,
        "delta": delta,
        "A": -4 * torch.rand(sets, channels, states, generator=generator),
        "B": B,
        "C": C,
        "D": draw(sets, channels) if optional else None,
        "delta_bias": draw(sets, channels) if optional else None,
        "orders": torch.stack([torch.randperm(length, generator=generator) for _ in range(sets)]) if ordered else None,
    }


def loop(u, delta, A, B, C, D, delta_bias, orders, delta_softplus, reduction):
    """The definition, one step after the other."""
    batch, sets, channels, length = delta.shape
    k = torch.arange(sets, device=delta.device)
    dt = delta if delta_bias is None else delta + delta_bias[:, :, None]
    dt = F.softplus(dt) if delta_softplus else dt
    h = dt.new_zeros(batch, sets, channels, A.shape[2])
    values, cells = [], []
    for t in range(length):
        cell = torch.full_like(k, t) if orders is None else orders[:, t]
        d, x, b, c = (m[:, k, :, cell].transpose(0, 1) for m in (dt, u.expand_as(delta), B, C))  # (N, K, E or S)
        h = torch.exp(d[..., None] * A) * h + (d * x)[..., None] * b[:, :, None]
        values.append((h * c[:, :, None]).sum(-1) + (0 if D is None else D * x))
        cells.append(cell)
    when = torch.stack(cells, dim=1).argsort(dim=1)  # (K, L): the time at which a cell is visited
    y = torch.stack(values, dim=-1).gather(-1, when[None, :, None].expand(batch, -1, channels, -1))
    if reduction != "none":
        y = y.sum(1, keepdim=True) / (sets if reduction == "mean" else 1)
    return y, h


def results(function, case: Case, softplus: bool, reduction: str, dtype: torch.dtype, parts: str = "y last") -> Case:
    """y, the last states, and the gradients of a weighted sum of those named in ``parts``."""
    given = {name: case[name] for name in NAMES}
    leaves = {
        name: None if tensor is None else tensor.detach().to(dtype).requires_grad_() for name, tensor in given.items()
    }
    outcome = dict(zip(("y", "last"), function(*leaves.values(), case["orders"], softplus, reduction), strict=True))
    sums = [torch.cos(torch.arange(v.numel(), device=v.device).view(v.shape)).mul(v).sum() for v in outcome.values()]
    sum(value for value, name in zip(sums, outcome, strict=True) if name in parts.split()).backward()
    outcome |= {f"grad of {name}": leaf.grad for name, leaf in leaves.items() if leaf is not None}
    return {name: None if value is None else value.detach() for name, value in outcome.items()}


def assert_near(actual: Case, expected: Case, forward: float = FORWARD, gradient: float = GRADIENT) -> None:
    """Errors small beside the largest value of each result; a gradient that does not exist counts as zero."""
    assert actual.keys() == expected.keys()
    for name, truth in expected.items():
        value = actual[name]
        if truth is None or value is None:
            assert all(given is None or not given.any() for given in (truth, value)), name
            continue
        assert value.shape == truth.shape, name
        error = (value.double() - truth).abs().max().item()
        limit = (gradient if name.startswith("grad") else forward) * truth.abs().max().item()
        assert error <= limit, f"{name}: error {error:.2e}, allowed {limit:.2e}"
