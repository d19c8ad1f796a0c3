"""DiffMa: sizes, conditions, options, gradients, precision; published weights are in test_diffma_released."""

from __future__ import annotations

import io

import pytest
import torch
from monai.inferers import DiffusionInferer
from monai.networks.schedulers import DDIMScheduler

from monai_mamba_gen.networks.blocks import Mamba
from monai_mamba_gen.networks.nets import DiffMa

SMALL = {"in_channels": 2, "image_size": 8, "hidden_size": 16, "num_layers": 3, "d_state": 4}


def make(random: float = 0.2, seed: int = 0, **arguments) -> DiffMa:
    """A network whose zero-initialised parts have been moved, except for what is to have no effect at the start."""
    torch.manual_seed(seed)
    network = DiffMa(**{**SMALL, **arguments})
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.split(".")[0] in ("blocks", "final_layer", "t_embedder", "x_embedder"):
                parameter.add_(
                    random * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
                )
    return network


def draw(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


X, CONTEXT, TIMES = draw(3, 2, 8, 8), draw(3, 2, 8, 8, seed=2), torch.tensor([1, 500, 999])


def gradients(network: DiffMa) -> dict[str, torch.Tensor | None]:
    return {name: parameter.grad for name, parameter in network.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("name", "millions"), [("S/2", 23.4), ("B/2", 45.4), ("L/2", 89.3), ("XL/2", 155.3), ("XXL/2", 309.0)]
)
def test_published_sizes(name, millions):
    """Parameters that learn; the fixed table of positions, 0.1 M at patch 2, is one beside them."""
    with torch.device("meta"):
        network = DiffMa.from_preset(name, learn_sigma=True, embedder=False)
    assert round(sum(p.numel() for p in network.parameters() if p.requires_grad) / 1e6, 1) == millions
    fixed = {key: tuple(p.shape) for key, p in network.named_parameters() if not p.requires_grad}
    assert fixed == {"pos_embed": (1, 196, 512)}


def test_all_presets():
    assert {name.split("/")[0] for name in DiffMa.presets} == {"S", "B", "L", "XL", "XXL", "tiny"}
    for name in DiffMa.presets:
        with torch.device("meta"):
            network = DiffMa.from_preset(name, in_channels=1)
        assert network.patch_size == int(name[-1])
    with pytest.raises(ValueError, match="preset must be one of .* got 'M/2'"):
        DiffMa.from_preset("M/2")


@pytest.mark.parametrize("size", [(8, 8), (16, 12), (7, 9), (1, 1), (2, 31), (30, 5)], ids=str)
@pytest.mark.parametrize(("patch_size", "image_size"), [(2, 8), (4, (8, 16)), (7, 14)])
def test_any_size(size, patch_size, image_size):
    network = make(patch_size=patch_size, image_size=image_size, context_channels=1, learn_sigma=True)
    y = network(draw(2, 2, *size), torch.tensor([3, 900]), draw(2, 1, *size))
    assert y.shape == (2, 4, *size)
    assert y.isfinite().all()


def test_channels():
    assert make().out_channels == 2
    assert make(learn_sigma=True).out_channels == 4
    network = make(out_channels=3, learn_sigma=True, context_channels=5)
    assert network(X, TIMES, draw(3, 5, 8, 8)).shape == (3, 6, 8, 8)


def test_starts_at_zero_and_learns():
    torch.manual_seed(0)
    network = DiffMa(**SMALL)
    assert not network(X, TIMES, CONTEXT).any()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    target, losses = draw(3, 2, 8, 8, seed=3), []
    for _ in range(40):
        loss = (network(X, TIMES, CONTEXT) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("scan_order", ["spiral", "released", "raster"])
@pytest.mark.parametrize("use_checkpoint", [False, True])
def test_every_parameter_has_a_gradient(scan_order, use_checkpoint):
    network = make(
        scan_order=scan_order, slice_position=True, num_directions=2, concat_context=True, use_checkpoint=use_checkpoint
    )
    network.embedder.fc[0].bias.data.fill_(3.0)  # its one hidden unit is awake
    for layer in (network.position_embedder.mlp[2], network.direction_embedder):
        torch.nn.init.normal_(layer.weight)
    context = torch.cat([CONTEXT[:2], torch.full((1, 2, 8, 8), -1.0)])
    options = {"position": torch.tensor([0.0, 0.5, 1.0]), "direction": torch.tensor([0, 1, 1])}
    network(X, TIMES, context, **options).square().mean().backward()
    found = gradients(network)
    assert not [name for name, g in found.items() if g is None or not g.isfinite().all() or g.abs().max() == 0]
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    assert frozen == {"pos_embed", "embedder.vision_embedding.mask_token"}


def test_a_new_network_leaves_no_parameter_without_gradient():
    """Those behind a zero have zero for a gradient, which is what training in several processes needs."""
    torch.manual_seed(0)
    network = DiffMa(**SMALL, slice_position=True, num_directions=2)
    zeros = torch.zeros(3)
    for context in (CONTEXT, None):
        network.zero_grad()
        network(X, TIMES, context, position=zeros, direction=zeros).square().mean().backward()
        assert not [name for name, g in gradients(network).items() if g is None]


def test_gradient_reaches_the_source():
    network, context = make(), CONTEXT.clone().requires_grad_()
    network(X, TIMES, context).square().mean().backward()
    assert (context.grad.abs().sum(dim=(1, 2, 3)) > 0).all()


def test_forms_of_the_time_agree():
    network, x, context = make(), X[:1].expand(3, -1, -1, -1), CONTEXT[:1].expand(3, -1, -1, -1)
    expected = network(x, torch.tensor([7, 7, 7]), context)
    for timesteps in (torch.tensor([7.0]), torch.tensor(7), 7, torch.tensor([7.0] * 3)):
        torch.testing.assert_close(network(x, timesteps, context), expected)
    assert torch.equal(network(x, None, context), network(x, torch.zeros(3), context))
    assert not torch.allclose(network(x, torch.tensor([8]), context), expected)


def test_forward_is_denoise_on_what_the_embedders_make():
    network = make()
    soft_mask, tokens = network.embedder(CONTEXT)
    expected = network.denoise(X, TIMES, network.image_embedder(CONTEXT), tokens, soft_mask)
    torch.testing.assert_close(network(X, TIMES, CONTEXT), expected)
    given = draw(3, 16, seed=4)
    torch.testing.assert_close(
        network(X, TIMES, CONTEXT, image_embedding=given), network.denoise(X, TIMES, given, tokens, soft_mask)
    )


def test_a_given_embedding_of_another_size():
    network, given = make(learned_image_embedding=False, image_embedding_size=5), draw(3, 5)
    assert not [name for name, _ in network.named_parameters() if name.startswith("image_embedder")]
    soft_mask, tokens = network.embedder(CONTEXT)
    expected = network.denoise(X, TIMES, network.image_projection(given), tokens, soft_mask)
    torch.testing.assert_close(network(X, TIMES, CONTEXT, image_embedding=given), expected)
    with pytest.raises(ValueError, match=r"image_embedding must be \(3, 5\), got \(3, 16\)"):
        network(X, TIMES, CONTEXT, image_embedding=draw(3, 16))
    assert make(image_embedding_size=16).image_projection is None


def test_rows_of_a_batch_do_not_know_each_other():
    network = make()
    together = network(X, TIMES, CONTEXT)
    for row in range(3):
        one = slice(row, row + 1)
        torch.testing.assert_close(network(X[one], TIMES[one], CONTEXT[one]), together[one], rtol=1e-4, atol=1e-5)


def test_no_condition():
    """None is a source of -1; half a batch may be without; what is learned for it is used, and nothing of the image."""
    network = make()
    for parameter in (network.null_tokens, network.null_embedding):
        torch.nn.init.normal_(parameter)
    nothing = torch.full_like(CONTEXT, -1.0)
    without = network(X, TIMES, nothing)
    assert torch.equal(network(X, TIMES), without)
    half = network(X, TIMES, torch.cat([CONTEXT[:1], nothing[1:]]))
    torch.testing.assert_close(half[1:], without[1:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(half[:1], network(X, TIMES, CONTEXT)[:1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(half[:1], without[:1])
    expected = network.denoise(
        X,
        TIMES,
        network.null_embedding.expand(3, -1),
        network.null_tokens.expand(3, 16, -1),
        torch.full((3, 16, 1), 0.5),
    )
    torch.testing.assert_close(without, expected)
    torch.testing.assert_close(network(X, TIMES, nothing, image_embedding=draw(3, 16)), expected)
    one_pixel = nothing.clone()
    one_pixel[0, 0, 0, 0] = 1.0  # an image with content is an image
    assert not torch.allclose(network(X, TIMES, one_pixel)[0], without[0])


def test_the_source_beside_the_noise():
    network = make(concat_context=True, context_channels=1)
    assert network.x_embedder.proj.in_channels == 3
    context = draw(3, 1, 8, 8)
    soft_mask, tokens = network.embedder(context)
    expected = network.denoise(
        torch.cat([X, context], dim=1), TIMES, network.image_embedder(context), tokens, soft_mask
    )
    torch.testing.assert_close(network(X, TIMES, context), expected)
    assert torch.equal(network(X, TIMES), network(X, TIMES, torch.full((3, 1, 8, 8), -1.0)))


def test_options_start_without_an_effect():
    network = make(slice_position=True, num_directions=2)
    plain = network(X, TIMES, CONTEXT)
    place, way = torch.tensor([0.0, 0.3, 1.0]), torch.tensor([0, 1, 0])
    assert torch.equal(network(X, TIMES, CONTEXT, position=place, direction=way), plain)
    torch.nn.init.normal_(network.position_embedder.mlp[2].weight)
    torch.nn.init.normal_(network.direction_embedder.weight)
    assert torch.equal(network(X, TIMES, CONTEXT), plain)
    for options in ({"position": place}, {"direction": way}):
        y = network(X, TIMES, CONTEXT, **options)
        assert not torch.allclose(y, plain)
        first = {name: value[:1] for name, value in options.items()}  # one for all
        torch.testing.assert_close(network(X, TIMES, CONTEXT, **first)[:1], y[:1])
    assert not torch.allclose(network(X, TIMES, CONTEXT, direction=way), network(X, TIMES, CONTEXT, direction=1 - way))


def test_positions_near_each_other_differ():
    network = make(slice_position=True)
    torch.nn.init.normal_(network.position_embedder.mlp[2].weight)
    y = [network(X, TIMES, CONTEXT, position=torch.tensor([p])) for p in (0.0, 0.01, 0.5, 1.0)]
    assert all(not torch.allclose(y[0], other, rtol=1e-4, atol=1e-5) for other in y[1:])


def test_scan_orders_differ_and_skips_matter():
    outputs = []
    for scan_order in ("spiral", "released", "raster"):
        outputs.append(make(scan_order=scan_order)(X, TIMES, CONTEXT))
    assert not any(torch.allclose(a, b) for a, b in [(outputs[0], outputs[1]), (outputs[0], outputs[2])])


def test_deep_networks_reuse_directions():
    network, seen = make(num_layers=10), []
    for block in network.blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.append(inputs[3]))
    network(X, TIMES, CONTEXT)
    assert torch.equal(seen[0], seen[8]) and torch.equal(seen[1], seen[9])
    assert len({tuple(order.flatten().tolist()) for order in seen}) == 8


def test_checkpointing_changes_nothing():
    results = []
    for use_checkpoint in (False, True):
        network = make(use_checkpoint=use_checkpoint)
        y = network(X, TIMES, CONTEXT)
        y.square().mean().backward()
        results.append([y.detach(), *gradients(network).values()])
    for plain, checkpointed in zip(*results, strict=True):
        torch.testing.assert_close(checkpointed, plain, rtol=1e-5, atol=1e-7)


def test_autocast_is_close_to_single():
    network = make()
    expected = network(X, TIMES, CONTEXT)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = network(X, TIMES, CONTEXT)
    assert (y.float() - expected).abs().max() < 0.1 * expected.abs().max()
    y.float().square().mean().backward()
    assert all(g.isfinite().all() for g in gradients(network).values())


def test_double_precision():
    network = make()
    single = network(X, TIMES, CONTEXT)
    y = network.double()(X.double(), TIMES, CONTEXT.double())
    assert y.dtype == torch.float64
    torch.testing.assert_close(y.float(), single, rtol=1e-3, atol=1e-3)


def test_state_dict_survives_safe_loading():
    network, other = make(slice_position=True, num_directions=2), make(seed=1, slice_position=True, num_directions=2)
    assert not torch.allclose(other(X, TIMES, CONTEXT), network(X, TIMES, CONTEXT))
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert torch.equal(other(X, TIMES, CONTEXT), network(X, TIMES, CONTEXT))


def test_step_sizes_are_not_wiped():
    """The published code sets the biases of all linear layers to zero, those of the step sizes too; here they stay."""
    for module in DiffMa(**SMALL).modules():
        if isinstance(module, Mamba):
            dt = torch.nn.functional.softplus(module.dt_proj.bias)
            assert 0.9e-3 < dt.min() and dt.max() < 0.11


@pytest.mark.filterwarnings("ignore")  # each Python number that a trace fixes is a warning
@pytest.mark.parametrize("scan_order", ["spiral", "released"])
def test_can_be_traced(scan_order):
    network = make(scan_order=scan_order, num_layers=2, scan_backend="torch").eval()
    with torch.no_grad():
        traced = torch.jit.trace(network, (X, TIMES.float(), CONTEXT), check_trace=False)
        x, context, t = draw(3, 2, 8, 8, seed=8), draw(3, 2, 8, 8, seed=9), torch.tensor([700.0, 1.0, 2.0])
        torch.testing.assert_close(traced(x, t, context), network(x, t, context), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_can_be_exported():
    network = make(num_layers=2, scan_backend="torch", slice_position=True, num_directions=2).eval()
    options = {"position": torch.rand(3), "direction": torch.tensor([0, 1, 0])}
    program = torch.export.export(network, (X, TIMES, CONTEXT), options)
    x = draw(3, 2, 8, 8, seed=8)
    y = program.module()(x, TIMES, CONTEXT, **options)
    torch.testing.assert_close(y, network(x, TIMES, CONTEXT, **options), rtol=1e-4, atol=1e-5)


def test_monais_inferer_takes_it():
    scheduler = DDIMScheduler(num_train_timesteps=1000)
    scheduler.set_timesteps(num_inference_steps=3)
    network, inferer = make().eval(), DiffusionInferer(scheduler)
    prediction = inferer(X, network, draw(3, 2, 8, 8, seed=3), TIMES, condition=CONTEXT)
    assert prediction.shape == X.shape
    prediction.square().mean().backward()
    for cfg in (None, 2.0):
        images = inferer.sample(X, network, conditioning=CONTEXT, cfg=cfg, verbose=False)
        assert images.shape == X.shape and images.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "inputs", "message"),
    [
        ({}, {"x": draw(3, 3, 8, 8)}, r"x must be \(3, 2, 8, 8\), got \(3, 3, 8, 8\)"),
        ({}, {"x": draw(2, 8, 8)}, r"x must be .*, got \(2, 8, 8\)"),
        ({}, {"context": draw(3, 4, 8, 8)}, r"context must be \(3, 2, 8, 8\), got \(3, 4, 8, 8\)"),
        ({}, {"context": draw(3, 2, 8, 6)}, r"context must be \(3, 2, 8, 8\), got \(3, 2, 8, 6\)"),
        ({}, {"timesteps": torch.zeros(2)}, r"timesteps must be \(3,\) or \(1,\), got \(2,\)"),
        ({}, {"image_embedding": draw(3, 8)}, r"image_embedding must be \(3, 16\), got \(3, 8\)"),
        ({}, {"position": torch.zeros(3)}, "position was given, but the network has slice_position=False"),
        ({}, {"direction": torch.zeros(3)}, "direction was given, but the network has num_directions=0"),
        ({"num_directions": 2}, {"direction": torch.tensor([0, 2, 1])}, r"must be in 0..1, got \[0, 2, 1\]"),
        ({"slice_position": True}, {"position": torch.zeros(2)}, r"position must be \(3,\) or \(1,\), got \(2,\)"),
        ({"learned_image_embedding": False}, {}, r"image_embedding \(N, E\) is needed"),
        ({"scan_order": "released"}, {"x": X[..., :4], "context": CONTEXT[..., :4]}, "square grids only, got 4 x 2"),
    ],
)
def test_bad_inputs(arguments, inputs, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)(**{"x": X, "context": CONTEXT, **inputs})


def test_what_denoise_is_given_must_fit():
    network = make()
    good = {"image_embedding": draw(3, 16), "tokens": draw(3, 16, 16), "soft_mask": torch.rand(3, 16, 1)}
    network.denoise(X, TIMES, **good)
    for name, value, expected in (
        ("tokens", draw(3, 15, 16), r"tokens must be \(3, 16, 16\), got \(3, 15, 16\)"),
        ("soft_mask", torch.rand(3, 16), r"soft_mask must be \(3, 16, 1\), got \(3, 16\)"),
        ("image_embedding", draw(3, 4), r"image_embedding must be \(3, 16\), got \(3, 4\)"),
    ):
        with pytest.raises(ValueError, match=expected):
            network.denoise(X, TIMES, **{**good, name: value})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spatial_dims": 3}, "spatial_dims must be 2, got 3"),
        ({"patch_size": 0}, "patch_size must be at least 1, got 0"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"image_size": (8, 0)}, r"image_size must be one or two positive numbers, got \(8, 0\)"),
        ({"hidden_size": 18}, "hidden_size must be a multiple of 4, got 18"),
        ({"scan_order": "snake"}, "scan_order must be one of .* got 'snake'"),
        ({"scan_order": "released", "image_size": (8, 4)}, r"square grids only, got image_size=\(8, 4\)"),
        ({"num_directions": -1}, "num_directions must be at least 0, got -1"),
        ({"in_channels": 0}, "channels must be at least 1, got 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        DiffMa(**{**SMALL, **arguments})
