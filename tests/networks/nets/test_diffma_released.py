"""DiffMa and its vision embedder against the published forward passes, for weights with the published names."""

from __future__ import annotations

import pytest
import torch

from monai_mamba_gen.networks.nets import DiffMa, VisionEmbedder
from monai_mamba_gen.utils import load_released_checkpoint
from tests.networks.nets import diffma_reference as published


def draw(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs(size: int, patch: int, hidden: int, channels: int = 4) -> tuple[torch.Tensor, ...]:
    tokens = (size // patch) ** 2
    return (
        draw(2, channels, size, size),
        torch.tensor([3, 877]),
        draw(2, hidden, seed=2),
        draw(2, tokens, hidden, seed=3),
        torch.sigmoid(draw(2, tokens, 1, seed=4)),
    )


def relative_error(y: torch.Tensor, expected: torch.Tensor) -> float:
    return ((y - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize(
    "sizes",
    [
        {"depth": 1},
        {"depth": 2},
        {"depth": 3},
        {"depth": 4, "out_channels": 4},
        {"depth": 5, "size": 6},  # odd grid and odd depth
        {"depth": 9, "size": 8},  # all eight directions, and the first again
        {"depth": 4, "size": 12, "patch": 4},
        {"depth": 2, "size": 14, "patch": 7},
        {"depth": 3, "size": 2},  # one token
        {"depth": 2, "hidden": 32, "states": 5, "width": 3, "inner": 48},
        {"depth": 2, "channels": 1, "out_channels": 1},
        {"depth": 2, "channels": 3, "out_channels": 5},
    ],
    ids=str,
)
def test_published_numbers(sizes):
    state = published.released_state(**sizes)
    network = DiffMa.from_released(state)
    given = inputs(sizes.get("size", 8), sizes.get("patch", 2), sizes.get("hidden", 16), sizes.get("channels", 4))
    with torch.no_grad():
        expected = published.denoise(state, *given)
        assert relative_error(network.denoise(*given), expected) < 2e-5
    assert network.learn_sigma == (sizes.get("out_channels", 8) == 2 * sizes.get("channels", 4))
    assert network.out_channels == sizes.get("out_channels", 8)


@pytest.mark.slow
def test_published_numbers_at_the_published_sizes():
    state = published.released_state(size=28, depth=2, hidden=512)
    given = inputs(28, 2, 512)
    with torch.no_grad():
        assert relative_error(DiffMa.from_released(state).denoise(*given), published.denoise(state, *given)) < 1e-4


def test_published_numbers_in_double_precision():
    state = {name: value.double() for name, value in published.released_state(depth=4, states=3).items()}
    given = [m if m.dtype == torch.int64 else m.double() for m in inputs(8, 2, 16)]
    network = DiffMa.from_released(published.released_state(depth=4, states=3)).double()
    with torch.no_grad():
        assert relative_error(network.denoise(*given), published.denoise(state, *given)) < 1e-9


def test_the_reference_notices_what_it_should():
    """Wrong directions, a missing skip and the true spiral are all far from the published numbers."""
    state = published.released_state(depth=4)
    given = inputs(8, 2, 16)
    network = DiffMa.from_released(state)
    with torch.no_grad():
        expected = published.denoise(state, *given)
        for change in ("spiral", "raster", "blocks", "mask"):
            network.scan_order = change if change in ("spiral", "raster") else "released"
            blocks = {**state, **{k.replace("s.1.", "s.2."): v for k, v in state.items() if k.startswith("blocks.1.")}}
            network.load_state_dict(blocks if change == "blocks" else state)
            mask = given[4].flip(1) if change == "mask" else given[4]
            assert relative_error(network.denoise(*given[:4], mask), expected) > 1e-3, change


def test_parameters_are_the_published_ones():
    state = published.released_state()
    network = DiffMa.from_released(state)
    assert {name: tuple(p.shape) for name, p in network.named_parameters()} == {
        k: tuple(v.shape) for k, v in state.items()
    }
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert not network.pos_embed.requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos_embed": None}, "state_dict must be a published DiffMa's, pos_embed is missing"),
        ({"blocks.0.mamba1.A_log": None}, "blocks.0.mamba1.A_log is missing"),
        ({"blocks.3.mamba2.D": None}, r"blocks.3.mamba2.D is absent in the file and \(32,\) in this network"),
        ({"blocks.1.norm1.bias": torch.zeros(3)}, r"blocks.1.norm1.bias is \(3,\) in the file"),
        ({"extra": torch.zeros(3)}, r"extra is \(3,\) in the file and absent in this network"),
    ],
)
def test_other_state_dicts_are_refused(change, message):
    state = {**published.released_state(), **change}
    with pytest.raises(ValueError, match=message):
        DiffMa.from_released({name: value for name, value in state.items() if value is not None})


def test_without_an_embedder_there_is_only_denoise():
    network = DiffMa.from_released(published.released_state())
    x, t, image_embedding, _, _ = inputs(8, 2, 16)
    with pytest.raises(ValueError, match="has no vision embedder: set .embedder, or call .denoise"):
        network(x, t, context=x)
    embedder = VisionEmbedder.from_released(published.released_embedder_state())
    network.embedder = embedder
    context = draw(2, 4, 8, 8, seed=9)
    soft_mask, tokens = embedder(context)
    expected = network.denoise(x, t, image_embedding, tokens, soft_mask)
    torch.testing.assert_close(network(x, t, context, image_embedding), expected)
    other = DiffMa.from_released(published.released_state(), embedder=embedder)
    torch.testing.assert_close(other(x, t, context, image_embedding), expected)
    with pytest.raises(ValueError, match="learned no image embedding"):
        network(x, t, context)


def test_no_condition_for_published_weights():
    """There is nothing learned for it: tokens and embedding are zero."""
    network = DiffMa.from_released(
        published.released_state(), VisionEmbedder.from_released(published.released_embedder_state())
    )
    x, t, image_embedding, tokens, soft_mask = inputs(8, 2, 16)
    zero = network.denoise(x, t, 0 * image_embedding, 0 * tokens, 0 * soft_mask + 0.5)
    torch.testing.assert_close(network(x, t, None, image_embedding), zero)


@pytest.mark.parametrize(
    "sizes",
    [{}, {"size": 12, "patch": 4}, {"size": 2}, {"units": 3}, {"units": 6}, {"channels": 1, "size": 28}],
    ids=str,
)
def test_published_embedder(sizes):
    state = published.released_embedder_state(**sizes)
    embedder = VisionEmbedder.from_released(state)
    latent = draw(2, sizes.get("channels", 4), sizes.get("size", 8), sizes.get("size", 8))
    for mine, expected in zip(embedder(latent), published.embed(state, latent), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(value, state[name]) for name, value in embedder.state_dict().items())


def test_other_state_dicts_of_an_embedder_are_refused():
    state = published.released_embedder_state()
    with pytest.raises(ValueError, match="must be a published vision embedder's"):
        VisionEmbedder.from_released({"weight": torch.zeros(2)})
    with pytest.raises(ValueError, match="norm.bias is absent in the file"):
        VisionEmbedder.from_released({name: value for name, value in state.items() if name != "norm.bias"})


@pytest.mark.parametrize("region", ["brain", "pelvis"])
@pytest.mark.parametrize("key", ["ema", "model"])
def test_published_embedder_checkpoints(shared_data, region, key):
    path = shared_data / "diffma_vision_embedder" / f"{region}_patch_size_2.pt"
    if not path.is_file():
        pytest.skip(f"no {path.name}")
    state = load_released_checkpoint(path, key)
    embedder = VisionEmbedder.from_released(state)
    assert (embedder.in_channels, embedder.grid, embedder.embed_dim) == (4, (14, 14), 512)
    latent = draw(2, 4, 28, 28)
    with torch.no_grad():
        soft_mask, tokens = embedder(latent)
        for mine, expected in zip((soft_mask, tokens), published.embed(state, latent), strict=True):
            assert relative_error(mine, expected) < 2e-5
    assert soft_mask.shape == (2, 196, 1) and tokens.shape == (2, 196, 512)
    assert 0 < soft_mask.min() and soft_mask.max() <= 1  # noise drives the sigmoid to its ends
