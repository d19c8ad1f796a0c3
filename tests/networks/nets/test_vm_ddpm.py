"""VMDDPM: shapes, conditions, gradients, precision, Sequence Regeneration."""

from __future__ import annotations

import io

import pytest
import torch

from monai_mamba_gen.networks.blocks import SS2D, seed_scan_orders
from monai_mamba_gen.networks.nets import VMDDPM

SMALL = {"channels": (8, 16), "layers_per_stage": 1, "stem_stride": 2, "d_state": 4, "expand": 1}  # stride 4


def make(seed: int = 0, **arguments) -> VMDDPM:
    torch.manual_seed(seed)
    return VMDDPM(**{**SMALL, "sequence_regeneration": "off", **arguments})


def noisy(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("height", "width"), [(32, 32), (16, 24), (30, 21), (4, 4), (5, 64), (1, 1), (33, 4)], ids=lambda size: str(size)
)
@pytest.mark.parametrize(("in_channels", "out_channels"), [(1, 1), (3, 2)])
def test_any_size(height, width, in_channels, out_channels):
    network = make(in_channels=in_channels, out_channels=out_channels)
    y = network(noisy(2, in_channels, height, width), torch.tensor([3, 900]))
    assert y.shape == (2, out_channels, height, width)
    assert y.isfinite().all()


def test_smaller_than_one_patch_of_the_default_stem():
    network = VMDDPM(channels=(8, 8, 8, 8), layers_per_stage=1, d_state=2, expand=1)
    assert network.stride == 32
    assert network(noisy(1, 1, 4, 4)).shape == (1, 1, 4, 4)


def test_padding_repeats_the_border():
    network = make()
    x = noisy(1, 1, 6, 7)
    padded = torch.cat([x, x[..., -1:, :].expand(1, 1, 2, 7)], dim=2)
    padded = torch.cat([padded, padded[..., -1:]], dim=3)
    assert torch.equal(network(x), network(padded)[..., :6, :7])


def test_encoder_output_is_the_papers():
    """(N, 8C, H/32, W/32), bottleneck included; one stage earlier (N, 4C, H/16, W/16)."""
    network = VMDDPM(channels=(8, 16, 32, 64), d_state=2, expand=1)
    shapes = {}
    for name, module in {
        "stage 3": network.encoder[2],
        "stage 4": network.encoder[3],
        "neck": network.bottleneck,
    }.items():
        module[-1].register_forward_hook(lambda m, i, output, name=name: shapes.__setitem__(name, tuple(output.shape)))
    network(noisy(2, 1, 64, 96))
    assert shapes == {"stage 3": (2, 32, 4, 6), "stage 4": (2, 64, 2, 3), "neck": (2, 64, 2, 3)}
    assert [len(stage) for stage in network.encoder] == [2, 2, 2, 2]
    assert [len(stage) for stage in network.decoder] == [2, 2, 2, 2]
    assert len(network.bottleneck) == 1


def test_skips_are_concatenated_at_their_resolution():
    network = make()
    widths = [stage[0].res_block.norm.num_channels for stage in network.decoder]
    assert widths == [2 * 16, 2 * 8]


def test_forms_of_the_time_agree():
    network, x = make(), noisy(3, 1, 8, 8)
    expected = network(x, timesteps=torch.tensor([7, 7, 7]))
    for timesteps in (torch.tensor([7.0]), torch.tensor([7]), torch.tensor(7), torch.tensor([7.0] * 3), 7):
        torch.testing.assert_close(network(x, timesteps=timesteps), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(network(x, timesteps=torch.tensor([8, 8, 8])), expected)


def test_no_time_means_zero():
    network, x = make(), noisy(2, 1, 8, 8)
    assert torch.equal(network(x), network(x, torch.zeros(2)))


def test_each_sample_has_its_own_time():
    network, x = make(), noisy(1, 1, 8, 8).expand(2, -1, -1, -1)
    y = network(x, torch.tensor([1, 900]))
    torch.testing.assert_close(y[1:], network(x[1:], torch.tensor([900])), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(y[0], y[1])


def test_forms_of_the_label_agree():
    network, x = make(num_class_embeds=3), noisy(2, 1, 8, 8)
    expected = network(x, context=torch.tensor([2, 2]))
    for labels in (torch.tensor([2]), torch.tensor([[2], [2]]), torch.tensor([2.0, 2.0]), torch.tensor([[[2]], [[2]]])):
        torch.testing.assert_close(network(x, context=labels), expected)
        torch.testing.assert_close(network(x, class_labels=labels), expected)
    torch.testing.assert_close(network(x, None, torch.tensor([0, 0]), torch.tensor([2, 2])), expected)
    assert not torch.allclose(network(x, context=torch.tensor([1, 1])), expected)


def test_negative_label_means_none():
    network, x = make(num_class_embeds=3), noisy(2, 1, 8, 8)
    unlabelled = network(x)
    assert torch.equal(network(x, context=torch.tensor([-1, -1])), unlabelled)
    mixed = network(x, context=torch.tensor([-1, 0]))
    torch.testing.assert_close(mixed[:1], unlabelled[:1])
    assert not torch.allclose(mixed[1:], unlabelled[1:])


@pytest.mark.parametrize(
    ("arguments", "inputs", "message"),
    [
        ({}, {"x": noisy(1, 2, 8, 8)}, r"x must be \(N, 1, H, W\), got \(1, 2, 8, 8\)"),
        ({}, {"x": noisy(1, 8, 8)}, r"x must be \(N, 1, H, W\), got \(1, 8, 8\)"),
        ({}, {"timesteps": torch.zeros(3)}, r"timesteps must be \(2,\) or \(1,\), got \(3,\)"),
        ({}, {"context": torch.tensor([0, 1])}, "class labels were given, but .* num_class_embeds=None"),
        ({"num_class_embeds": 2}, {"context": torch.tensor([0, 2])}, "below num_class_embeds=2, got 2"),
        (
            {"num_class_embeds": 2},
            {"class_labels": torch.zeros(3)},
            r"class labels must be \(2,\) or \(1,\), got \(3,\)",
        ),
    ],
)
def test_bad_inputs(arguments, inputs, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)(**{"x": noisy(2, 1, 8, 8), **inputs})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spatial_dims": 3}, "spatial_dims must be 2, got 3"),
        ({"layers_per_stage": 0}, "layers_per_stage must be at least 1, got 0"),
        ({"stem_stride": 0}, "stem_stride must be at least 1, got 0"),
        ({"channels": ()}, r"channels must be one or more positive integers, got \(\)"),
        ({"channels": (8, 0)}, r"channels must be one or more positive integers, got \(8, 0\)"),
        ({"sequence_regeneration": "sometimes"}, "sequence_regeneration must be one of .* got 'sometimes'"),
        ({"block_fusion": "sum"}, "fusion must be one of .* got 'sum'"),
        ({"layer_fusion": "sum"}, "fusion must be one of .* got 'sum'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


@pytest.mark.parametrize("fusion", [("cascade", "mean"), ("concat", "concat")])
def test_every_parameter_has_a_gradient(fusion):
    network = make(num_class_embeds=2, block_fusion=fusion[0], layer_fusion=fusion[1], sequence_regeneration="always")
    y = network(noisy(3, 1, 16, 16), torch.tensor([1, 500, 999]), context=torch.tensor([-1, 0, 1]))
    y.square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert not [name for name, grad in gradients.items() if grad is None or not grad.isfinite().all()]
    assert not [name for name, grad in gradients.items() if grad.abs().max() == 0]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_checkpointing_changes_nothing(dropout):
    """With a new random order at every scan and with dropout, the recomputed pass must meet the first one's draws."""
    results = []
    for use_checkpoint in (False, True):
        network = make(sequence_regeneration="always", dropout=dropout, use_checkpoint=use_checkpoint)
        seed_scan_orders(network, 3)
        torch.manual_seed(4)
        y = network(noisy(2, 1, 16, 16), torch.tensor([1, 900]))
        y.square().mean().backward()
        results.append([y.detach(), *(parameter.grad for parameter in network.parameters())])
    for plain, checkpointed in zip(*results, strict=True):
        torch.testing.assert_close(checkpointed, plain, rtol=1e-5, atol=1e-7)


def test_checkpointing_keeps_less():
    kept = []
    for use_checkpoint in (False, True):
        network, sizes = make(use_checkpoint=use_checkpoint), {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: sizes.update({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()}) or t,
            lambda t: t,
        ):
            y = network(noisy(2, 1, 32, 32))
        kept.append(sum(sizes.values()))
        del y
    assert kept[1] < kept[0] / 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("factor", [1, 10, 100])
def test_autocast_stays_finite(dtype, factor):
    network = make(sequence_regeneration="always")
    with torch.autocast("cpu", dtype=dtype):
        y = network(factor * noisy(2, 1, 16, 16), torch.tensor([1, 999]))
    assert y.dtype == dtype
    assert y.isfinite().all()
    y.float().square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_autocast_is_close_to_single():
    network, x = make(), noisy(2, 1, 16, 16)
    expected = network(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = network(x)
    assert (y.float() - expected).abs().max() < 0.05 * expected.abs().max()


def test_double_precision():
    network, x = make(), noisy(2, 1, 16, 16)
    single = network(x, torch.tensor([5, 6]))
    y = network.double()(x.double(), torch.tensor([5, 6]))
    assert y.dtype == torch.float64
    torch.testing.assert_close(y.float(), single, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["off", "always"])
def test_rows_of_a_batch_do_not_know_each_other(mode):
    """Given the orders, a sample comes out the same alone and in any company."""
    network = make(sequence_regeneration=mode)
    x, t = noisy(4, 1, 16, 12), torch.tensor([0, 10, 500, 999])
    seed_scan_orders(network, 5)
    together = network(x, t)
    for row in range(4):
        seed_scan_orders(network, 5)
        torch.testing.assert_close(
            network(x[row : row + 1], t[row : row + 1]), together[row : row + 1], rtol=1e-5, atol=1e-5
        )


def test_off_is_deterministic_and_always_is_not():
    x = noisy(1, 1, 16, 16)
    network = make().eval()
    assert torch.equal(network(x), network(x))
    network = make(sequence_regeneration="always").eval()
    assert not torch.equal(network(x), network(x))
    assert not torch.equal(make(sequence_regeneration="train").train()(x), network(x))


def test_train_mode_is_off_in_evaluation():
    x = noisy(1, 1, 16, 16)
    assert torch.equal(make(sequence_regeneration="train").eval()(x), make(sequence_regeneration="off").eval()(x))


def test_scan_arguments_reach_every_scan():
    network = make(d_state=3, expand=2, dt_rank=5, d_conv=5, sequence_regeneration="train")
    scans = [module for module in network.modules() if isinstance(module, SS2D)]
    assert len(scans) == 5
    for scan in scans:
        assert (scan.d_state, scan.dt_rank, scan.sequence_regeneration) == (3, 5, "train")
        assert scan.d_inner == 2 * scan.in_proj.in_features
        assert scan.conv2d.kernel_size == (5, 5)


def test_state_dict_survives_safe_loading():
    network, other = make(seed=0, num_class_embeds=2), make(seed=1, num_class_embeds=2)
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True), strict=True)
    x = noisy(1, 1, 8, 8)
    assert torch.equal(other(x), network(x))


@pytest.mark.filterwarnings("ignore")  # each Python number that a trace fixes is a warning
def test_can_be_traced():
    network = make(sequence_regeneration="train").eval()
    with torch.no_grad():
        traced = torch.jit.trace(network, (noisy(1, 1, 16, 12), torch.tensor([3.0])), check_trace=False)
        x, t = torch.randn(1, 1, 16, 12), torch.tensor([700.0])
        torch.testing.assert_close(traced(x, t), network(x, t))
