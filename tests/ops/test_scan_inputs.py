"""Each argument that does not fit is named, with its value and what is allowed."""

from __future__ import annotations

import pytest
import torch

from monai_mamba_gen.ops import selective_scan

WRONG_SHAPES = {
    "u": (6, 7),
    "delta": (2, 6, 8),
    "A": (5, 5),
    "B": (2, 5, 8),
    "C": (2, 4, 5, 7),
    "D": (5,),
    "z": (2, 7, 7),
    "delta_bias": (6, 1),
}


@pytest.mark.parametrize(("name", "shape"), WRONG_SHAPES.items())
def test_wrong_shape(name, shape, scan_inputs):
    inputs = scan_inputs(7) | {name: torch.zeros(shape, dtype=torch.float64)}
    with pytest.raises(ValueError, match=rf"^{name} must be .* got shape \({shape[0]},"):
        selective_scan(**inputs)


@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 4, 7), (2, 0, 5, 7), (2, 1, 1, 5, 7), (5, 7)])
def test_wrong_shape_of_input_matrix(shape, scan_inputs):
    with pytest.raises(ValueError, match=r"^B must be .* G a divisor of 6"):
        selective_scan(**scan_inputs(7) | {"B": torch.zeros(shape)})


@pytest.mark.parametrize("name", WRONG_SHAPES)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64])
def test_wrong_dtype(name, dtype, scan_inputs):
    inputs = scan_inputs(7)
    with pytest.raises(ValueError, match=rf"^{name} must be real floating point, got {dtype}"):
        selective_scan(**inputs | {name: inputs[name].to(dtype)})


@pytest.mark.parametrize("name", [name for name in WRONG_SHAPES if name != "u"])
def test_wrong_device(name, scan_inputs):
    inputs = scan_inputs(7)
    with pytest.raises(ValueError, match=f"^{name} is on meta, but u is on cpu"):
        selective_scan(**inputs | {name: inputs[name].to("meta")})
