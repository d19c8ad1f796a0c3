"""SS2D against an implementation of the published description that uses flips and transposes, and no index tables."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from monai_mamba_gen.networks.blocks import SS2D, seed_scan_orders
from monai_mamba_gen.ops import scan_backends, selective_scan_ref


def published_core(ss2d: SS2D, image: torch.Tensor) -> torch.Tensor:
    """The four scans of VM-UNet's SS2D, (N, E, H, W) -> (N, E, H, W)."""
    batch, inner, height, width = image.shape
    length, rank, state = height * width, ss2d.dt_rank, ss2d.d_state
    by_rows = image.reshape(batch, inner, length)
    by_columns = image.transpose(2, 3).reshape(batch, inner, length)
    xs = torch.stack([by_rows, by_columns, by_rows.flip(-1), by_columns.flip(-1)], dim=1)  # (N, 4, E, L)
    projected = torch.einsum("bkdl,kcd->bkcl", xs, ss2d.x_proj_weight)
    dts, Bs, Cs = projected.split([rank, state, state], dim=2)
    dts = torch.einsum("bkrl,kdr->bkdl", dts, ss2d.dt_projs_weight)
    ys = selective_scan_ref(
        xs.reshape(batch, -1, length),
        dts.reshape(batch, -1, length),
        -torch.exp(ss2d.A_logs),
        Bs,
        Cs,
        D=ss2d.Ds,
        delta_bias=ss2d.dt_projs_bias.view(-1),
        delta_softplus=True,
    ).view(batch, 4, inner, length)

    def from_columns(y: torch.Tensor) -> torch.Tensor:
        return y.view(batch, inner, width, height).transpose(2, 3).reshape(batch, inner, length)

    merged = ys[:, 0] + ys[:, 2].flip(-1) + from_columns(ys[:, 1]) + from_columns(ys[:, 3].flip(-1))
    return merged.view(batch, inner, height, width)


def published_forward(ss2d: SS2D, x: torch.Tensor, shuffle: torch.Tensor | None = None) -> torch.Tensor:
    """VM-UNet's SS2D on (N, C, H, W); ``shuffle`` permutes the cells of the convolved image before the scan."""
    inner, gate = F.linear(x.permute(0, 2, 3, 1), ss2d.in_proj.weight).chunk(2, dim=-1)  # (N, H, W, E)
    image = F.silu(ss2d.conv2d(inner.permute(0, 3, 1, 2)))
    if shuffle is None:
        y = published_core(ss2d, image)
    else:
        shuffled = image.flatten(2)[..., shuffle].view_as(image)
        y = torch.empty_like(image).flatten(2)
        y[..., shuffle] = published_core(ss2d, shuffled).flatten(2)
        y = y.view_as(image)
    y = F.layer_norm(y.permute(0, 2, 3, 1), (ss2d.d_inner,), ss2d.out_norm.weight, ss2d.out_norm.bias)
    return F.linear(y * F.silu(gate), ss2d.out_proj.weight).permute(0, 3, 1, 2)


def make(d_model: int = 16, dtype: torch.dtype = torch.float32, **arguments) -> SS2D:
    """An SS2D whose parameters are all away from their special initial values."""
    torch.manual_seed(0)
    ss2d = SS2D(d_model, **arguments)
    with torch.no_grad():
        for parameter in ss2d.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return ss2d.to(dtype)


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def value_and_gradients(function, ss2d: SS2D, x: torch.Tensor, *args) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    y = function(ss2d, x, *args)
    weight = torch.cos(torch.arange(y.numel(), dtype=y.dtype)).view_as(y)
    return [y.detach(), *torch.autograd.grad((y * weight).sum(), [x, *ss2d.parameters()])]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
@pytest.mark.parametrize(("height", "width"), [(5, 7), (8, 8), (1, 6), (1, 1)])
@pytest.mark.parametrize("shuffled", [False, True])
def test_equals_published_description(dtype, tolerance, height, width, shuffled):
    ss2d = make(20, dtype)
    x = torch.randn(2, 20, height, width, dtype=dtype)
    shuffle = torch.randperm(height * width) if shuffled else None
    actual = value_and_gradients(lambda module, x: module(x, shuffle), ss2d, x)
    expected = value_and_gradients(published_forward, ss2d, x, shuffle)
    assert max(relative(a, b) for a, b in zip(actual, expected, strict=True)) < tolerance


@pytest.mark.parametrize(
    "arguments", [{"d_state": 3}, {"expand": 1}, {"expand": 1.5}, {"dt_rank": 5}, {"d_conv": 5}, {"d_state": 1}]
)
def test_equals_published_description_in_every_size(arguments):
    ss2d = make(8, torch.float64, **arguments)
    x = torch.randn(2, 8, 4, 6, dtype=torch.float64)
    assert relative(ss2d(x), published_forward(ss2d, x)) < 1e-10


@pytest.mark.parametrize("backend", scan_backends("cpu"))
def test_backend_can_be_named(backend):
    ss2d = make(8, scan_backend=backend)
    x = torch.randn(2, 8, 4, 6)
    assert relative(ss2d(x), published_forward(ss2d, x)) < 1e-4


@pytest.mark.parametrize(("d_model", "parameters"), [(96, 105_216), (192, 339_456), (384, 1_195_008)])
def test_parameter_count_is_vm_unets(d_model, parameters):
    assert sum(parameter.numel() for parameter in SS2D(d_model).parameters()) == parameters


def test_state_dict_is_vm_unets():
    shapes = {
        "in_proj.weight": (384, 96),
        "conv2d.weight": (192, 1, 3, 3),
        "conv2d.bias": (192,),
        "x_proj_weight": (4, 38, 192),
        "dt_projs_weight": (4, 192, 6),
        "dt_projs_bias": (4, 192),
        "A_logs": (768, 16),
        "Ds": (768,),
        "out_norm.weight": (192,),
        "out_norm.bias": (192,),
        "out_proj.weight": (96, 192),
    }
    ss2d = SS2D(96)
    assert {name: tuple(tensor.shape) for name, tensor in ss2d.state_dict().items()} == shapes
    ss2d.load_state_dict({name: torch.zeros(shape) for name, shape in shapes.items()}, strict=True)


def test_initial_scan_parameters_are_mambas():
    ss2d = SS2D(32)
    step = F.softplus(ss2d.dt_projs_bias)
    assert step.min() >= 0.99e-3
    assert step.max() <= 0.101
    assert step.log().std() > 1  # log-uniform over two decades: 1.33
    torch.testing.assert_close(-torch.exp(ss2d.A_logs), -torch.arange(1.0, 17).expand(4 * 64, 16))
    assert (ss2d.Ds == 1).all()
    assert ss2d.dt_projs_weight.abs().max() <= ss2d.dt_rank**-0.5
    assert {n for n, p in ss2d.named_parameters() if getattr(p, "_no_weight_decay", False)} == {"A_logs", "Ds"}


@pytest.mark.parametrize(
    ("mode", "training", "random"),
    [("always", True, True), ("always", False, True), ("train", True, True), ("train", False, False)]
    + [("off", True, False), ("off", False, False)],
)
def test_modes_of_sequence_regeneration(mode, training, random):
    ss2d = make(8, sequence_regeneration=mode).train(training)
    x = torch.randn(1, 8, 6, 6)
    assert (ss2d.draw_order(6, 6) is not None) == random
    assert torch.equal(ss2d(x), ss2d(x)) == (not random)
    assert torch.equal(ss2d(x), make(8)(x)) == (not random)


def test_random_order_is_what_draw_order_gives():
    ss2d = make(8, sequence_regeneration="always")
    x = torch.randn(1, 8, 5, 4)
    seed_scan_orders(ss2d, 7)
    drawn = ss2d(x)
    seed_scan_orders(ss2d, 7)
    assert torch.equal(ss2d(x, ss2d.draw_order(5, 4)), drawn)


def test_off_draws_no_random_numbers():
    before = torch.get_rng_state()
    ss2d = SS2D(8).requires_grad_(False)
    torch.set_rng_state(before)
    ss2d(torch.zeros(1, 8, 5, 5))
    assert torch.equal(torch.get_rng_state(), before)


def test_seed_fixes_the_orders():
    network = nn.Sequential(make(8, sequence_regeneration="always"), make(8, sequence_regeneration="always"))
    x = torch.randn(1, 8, 6, 6)

    def run(seed: int, calls: int = 2) -> list[torch.Tensor]:
        seed_scan_orders(network, seed)
        return [network(x) for _ in range(calls)]

    first, again, other = run(1), run(1), run(2)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[0], first[1])
    torch.randn(3)  # the global generator has no part in it
    assert torch.equal(run(1)[0], first[0])
    orders = [module.draw_order(6, 6).tolist() for module in network]
    assert orders[0] != orders[1]


@pytest.mark.parametrize("batch", [1, 4])
def test_seeded_orders_do_not_depend_on_the_batch(batch):
    ss2d = make(8, sequence_regeneration="always")
    x = torch.randn(4, 8, 6, 6)
    seed_scan_orders(ss2d, 1)
    whole = ss2d(x)
    seed_scan_orders(ss2d, 1)
    torch.testing.assert_close(ss2d(x[:batch]), whole[:batch], rtol=1e-5, atol=1e-5)


def test_seeding_a_network_without_scans_does_nothing():
    network = nn.Conv2d(1, 1, 3)
    seed_scan_orders(network, 1)
    assert not hasattr(network, "order_generator")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    ss2d = make(16)
    x = torch.randn(2, 16, 8, 8)
    with torch.autocast("cpu", dtype=dtype):
        y = ss2d(x)
    y.float().square().mean().backward()
    assert y.dtype == dtype
    assert relative(y.float(), ss2d(x)) < 0.05
    assert all(parameter.grad.isfinite().all() for parameter in ss2d.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sequence_regeneration": "sometimes"}, r"sequence_regeneration must be one of .*'always'.* got 'sometimes'"),
        ({"d_conv": 4}, "d_conv must be odd, got 4"),
        ({"dt_rank": "full"}, "dt_rank must be an integer or 'auto', got 'full'"),
        ({"d_state": 0}, "d_state and expand must be positive, got 8, 0 and 2"),
        ({"expand": 0.1}, "must be positive, got 8, 16 and 0.1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SS2D(8, **arguments)


@pytest.mark.parametrize("length", [5, 36])
def test_shuffle_of_another_size(length):
    with pytest.raises(ValueError, match=r"shuffle must be \(35,\)"):
        make(8)(torch.zeros(1, 8, 5, 7), torch.arange(length))
