"""Error of the scan against float64, over odd sizes and extreme steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scan_contenders import Shape, draw_inputs

from monai_mamba_gen.ops import native_module, selective_scan, selective_scan_ref

__all__ = ["Worst", "worst_errors"]

Inputs = dict[str, torch.Tensor]

# What is done to the inputs. A step of delta + 60 forgets everything, one of delta - 40 changes nothing.
EXTREMES: dict[str, Callable[[Inputs], Inputs]] = {
    "usual values": lambda m: m,
    "delta + 60": lambda m: m | {"delta": m["delta"] + 60},
    "delta - 40": lambda m: m | {"delta": m["delta"] - 40},
    "20 delta": lambda m: m | {"delta": 20 * m["delta"]},
    "1000 A": lambda m: m | {"A": 1000 * m["A"]},
}
# States that hardly decay, or grow a little: a decay next to 1 is a float32 with an error of up to 6e-8,
# and over a thousand steps the errors add up, in the plain loop as in the kernel.
SLOW: dict[str, Callable[[Inputs], Inputs]] = {
    "A = 0.001..0.016": lambda m: m | {"A": -0.001 * m["A"]},
    "A = -0.001..-0.016": lambda m: m | {"A": 0.001 * m["A"]},
}


@dataclass
class Worst:
    """The largest error met and where."""

    error: float = 0.0
    where: str = "nowhere"

    def meet(self, error: float, where: str) -> None:
        if math.isnan(error):
            error = math.inf
        if error > self.error:
            self.error, self.where = error, where


def _results(function, inputs: Inputs, weight: torch.Tensor) -> Inputs:
    """y and the gradients of the weighted sum of y."""
    leaves = {name: m.detach().clone().requires_grad_() for name, m in inputs.items()}
    y = function(**leaves, delta_softplus=True)
    gradients = torch.autograd.grad(y, list(leaves.values()), weight.to(y.dtype))
    return {"y": y.detach()} | {f"gradient of {name}": g for name, g in zip(leaves, gradients, strict=True)}


def _relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest error over largest value."""
    scale = max(expected.abs().max().item(), torch.finfo(torch.float32).tiny)
    return (actual.double() - expected).abs().max().item() / scale


def _shapes(quick: bool) -> list[Shape]:
    if quick:
        return [Shape(1, 2, 3, length, 3) for length in (1, 33)]
    states = (1, 3, 16)
    short = [Shape(2, 2, 19, length, state) for length, state in itertools.product((1, 7, 33, 257), states)]
    # the loop in float64 takes quadratic time backwards, so few channels where it is long
    return short + [Shape(1, 1, 5, 1025, state) for state in states]


def _native_results(level: str, inputs: Inputs, weight: torch.Tensor) -> Inputs:
    with native_module.instruction_set(level):
        return _results(lambda **m: selective_scan(**m, backend="native"), inputs, weight)


def worst_errors(
    quick: bool, extremes: dict[str, Callable[[Inputs], Inputs]]
) -> tuple[dict[str, Worst], dict[str, Worst], int]:
    """
    Worst errors of the forward pass, worst errors of any gradient, and the number of cases.

    Both by instruction set of the C kernel, and for the reference in float32, called "float32 loop". The truth is the
    reference in float64 at the same numbers. An error is the largest difference over the largest value of that tensor.
    """
    names = [*native_module.instruction_sets(), "float32 loop"]
    forward, gradient, cases = {name: Worst() for name in names}, {name: Worst() for name in names}, 0
    for shape, (extreme, change) in itertools.product(_shapes(quick), extremes.items()):
        inputs = change(draw_inputs(shape, seed=shape.length))
        weight = torch.randn(inputs["u"].shape, generator=torch.Generator().manual_seed(1))
        expected = _results(selective_scan_ref, {name: m.double() for name, m in inputs.items()}, weight)
        for name in names:
            if name == "float32 loop":
                actual = _results(selective_scan_ref, inputs, weight)
            else:
                actual = _native_results(name, inputs, weight)
            for tensor, value in expected.items():
                worst = forward if tensor == "y" else gradient
                worst[name].meet(_relative_error(actual[tensor], value), f"{tensor}, {extreme}, {tuple(shape)}")
            cases += 1
    return forward, gradient, cases
