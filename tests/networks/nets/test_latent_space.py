"""Latents of known scale: with MONAI's autoencoders, with others, and without one."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from monai.inferers import LatentDiffusionInferer
from monai.networks.nets import VQVAE, AutoencoderKL
from monai.networks.schedulers import DDIMScheduler
from torch import nn

from monai_mamba_gen.networks.nets import LatentSpace
from monai_mamba_gen.utils import DataError, load_weights


def autoencoder(levels=2, latent_channels=3, in_channels=1, spatial_dims=2):
    torch.manual_seed(0)
    return AutoencoderKL(
        spatial_dims,
        in_channels=in_channels,
        out_channels=in_channels,
        channels=(8,) * levels,
        attention_levels=(False,) * levels,
        num_res_blocks=1,
        norm_num_groups=4,
        latent_channels=latent_channels,
        with_encoder_nonlocal_attn=False,
        with_decoder_nonlocal_attn=False,
    )


def images(count=3, size=(16, 12), seed=1):
    return torch.rand(count, 1, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


class Halves(nn.Module):
    """An autoencoder whose numbers are known: means of 2 x 2 pixels, times 5, plus 7."""

    latent_channels = 1

    def encode(self, x):
        return 5 * nn.functional.avg_pool2d(x, 2) + 7

    def decode(self, z):
        return nn.functional.interpolate((z - 7) / 5, scale_factor=2.0)


def test_the_measured_scale_makes_latents_of_unit_deviation():
    latent_space = LatentSpace(autoencoder())
    batches = [images(3, seed=1), images(2, seed=2), images(5, seed=3)]
    scale = latent_space.measure_scale(batches)
    everything = torch.cat(batches)
    means = latent_space.autoencoder.encode(everything)[0].detach()
    assert scale == pytest.approx(1 / float(means.double().std(unbiased=False)), rel=1e-6)
    latents = latent_space.encode(everything).detach()
    assert float(latents.std(unbiased=False)) == pytest.approx(1, rel=1e-5)
    torch.testing.assert_close(latents, scale * means, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        latent_space.decode(latents), latent_space.autoencoder.decode(means), rtol=1e-4, atol=1e-5
    )


def test_the_mean_of_the_latents_does_not_count_and_modes_are_kept():
    latent_space = LatentSpace(Halves(), downsampling=2)
    latent_space.train()
    x = (
        torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        .repeat_interleave(2, 2)
        .repeat_interleave(2, 3)
    )
    assert latent_space.measure_scale([x[:3], x[3:]]) == pytest.approx(
        0.2 / float(x.double().std(unbiased=False)), rel=1e-6
    )
    assert latent_space.training and latent_space.autoencoder.training
    torch.testing.assert_close(latent_space.decode(latent_space.encode(x)), x)


def test_processes_share_one_scale(monkeypatch):
    latent_space, whole = LatentSpace(autoencoder()), LatentSpace(autoencoder())
    mine, others = images(2, seed=1), images(4, seed=2)
    means = whole.autoencoder.encode(others)[0].double()

    def all_reduce(totals):
        totals += torch.stack([totals.new_tensor(means.numel()), means.sum().detach(), means.square().sum().detach()])

    monkeypatch.setattr("monai_mamba_gen.networks.nets.latent_space.get_world_size", lambda: 2)
    monkeypatch.setattr("monai_mamba_gen.networks.nets.latent_space.dist.all_reduce", all_reduce)
    scale = latent_space.measure_scale([mine])
    monkeypatch.undo()
    assert scale == pytest.approx(whole.measure_scale([mine, others]), rel=1e-6)


@pytest.mark.parametrize("size", [(16, 16), (13, 9), (4, 31), (1, 1)])
def test_any_size_is_padded_and_cropped(size):
    latent_space = LatentSpace(autoencoder(levels=3), scale_factor=1.0)
    assert latent_space.downsampling == 4
    x = images(2, size)
    latents = latent_space.encode(x)
    assert latents.shape == (2, 3, -(-size[0] // 4), -(-size[1] // 4))
    assert latent_space.decode(latents).shape[2:] == tuple(4 * each for each in latents.shape[2:])
    assert latent_space.decode(latents, size=size).shape == x.shape
    reconstruction, mean, sigma = latent_space(x)
    assert reconstruction.shape == x.shape and mean.shape == sigma.shape == latents.shape


def test_forward_is_the_autoencoders_own():
    latent_space, x = LatentSpace(autoencoder()), images()
    torch.manual_seed(5)
    expected = latent_space.autoencoder(x)
    torch.manual_seed(5)
    for one, other in zip(latent_space(x), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    latent_space.eval()
    first, again = latent_space(x)[0], latent_space(x)[0]
    assert torch.equal(first, again), "a validation repeats"
    torch.testing.assert_close(first, latent_space.autoencoder.reconstruct(x), rtol=0, atol=0)
    sum(each.square().mean() for each in latent_space.train()(x)).backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in latent_space.parameters())


def test_samples_vary_about_the_mean_by_sigma():
    latent_space, x = LatentSpace(autoencoder(), scale_factor=2.0), images(1)
    mean, sigma = latent_space.autoencoder.encode(x)
    torch.manual_seed(0)
    drawn = torch.stack([latent_space.encode(x, sample=True) for _ in range(300)]) / 2
    torch.testing.assert_close(drawn.mean(0), mean, rtol=0, atol=float(sigma.detach().max()) * 0.3)
    assert float((drawn.std(0) / sigma).mean()) == pytest.approx(1, abs=0.05)
    assert torch.equal(latent_space.encode(x), latent_space.encode(x))


def test_pixel_mode_is_the_identity():
    latent_space, x = LatentSpace(), images(2, (7, 5))
    assert (latent_space.downsampling, latent_space.latent_channels, latent_space.measure_scale([])) == (1, 1, 1.0)
    assert latent_space.encode(x) is not None and torch.equal(latent_space.encode(x), x)
    assert torch.equal(latent_space.decode(x, size=(3, 4)), x[..., :3, :4])
    assert [each if each is None else tuple(each.shape) for each in latent_space(x)] == [x.shape, x.shape, None]
    assert list(latent_space.state_dict()) == ["scale_factor"]
    with pytest.raises(ValueError, match="without autoencoder"):
        LatentSpace(None, scale_factor=0.5)


def test_an_unknown_scale_is_one_line():
    latent_space = LatentSpace(autoencoder())
    assert not latent_space.scale_is_known
    for call, value in ((latent_space.encode, images()), (latent_space.decode, torch.zeros(1, 3, 4, 4))):
        with pytest.raises(ValueError, match="scale_factor is not known yet: load weights that hold it") as error:
            call(value)
        assert "\n" not in str(error.value)
    latent_space(images())  # training does not need it


def test_the_scale_is_stored_with_the_weights_and_a_file_without_it_is_refused(tmp_path):
    trained, path = LatentSpace(autoencoder()), tmp_path / "model.pt"
    torch.save(trained.state_dict(), path)
    with pytest.raises(DataError, match="model.pt cannot be used: scale_factor holds NaN"):
        load_weights(LatentSpace(autoencoder()), path)
    scale = trained.measure_scale([images()])
    torch.save(trained.state_dict(), path)
    loaded = load_weights(LatentSpace(autoencoder()), path)
    assert float(loaded.scale_factor) == scale and loaded.scale_is_known
    torch.testing.assert_close(loaded.encode(images()), trained.encode(images()))
    with pytest.raises(DataError, match=r"another network: autoencoder\..* is \(3, .* and \(4, "):
        load_weights(LatentSpace(autoencoder(latent_channels=4)), path)


def test_other_channels_are_one_line():
    latent_space = LatentSpace(autoencoder(in_channels=3), scale_factor=1.0)
    with pytest.raises(ValueError, match="images must have 3 channels, those of the autoencoder, got 1"):
        latent_space.encode(images())
    with pytest.raises(ValueError, match="latents must have 3 channels, those of the autoencoder, got 4"):
        latent_space.decode(torch.zeros(1, 4, 2, 2))


def test_grey_images_for_an_autoencoder_of_colours():
    inner = autoencoder(in_channels=3)
    latent_space, x = LatentSpace(inner, scale_factor=0.5, repeat_grey=3), images()
    latents = latent_space.encode(x)
    torch.testing.assert_close(latents, 0.5 * inner.encode(torch.cat([x] * 3, 1))[0])
    decoded = latent_space.decode(latents)
    assert decoded.shape == x.shape
    torch.testing.assert_close(decoded, inner.decode(latents / 0.5).mean(1, keepdim=True), rtol=1e-5, atol=1e-6)


def test_diffusers_way_of_answering():
    class Theirs(Halves):
        def encode(self, x):
            mean = super().encode(x)
            return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean, std=torch.zeros_like(mean)))

        def decode(self, z):
            return SimpleNamespace(sample=super().decode(z))

    x = images(1, (8, 6)).repeat_interleave(2, 2).repeat_interleave(2, 3)
    theirs, ours = LatentSpace(Theirs(), 0.18215, downsampling=2), LatentSpace(Halves(), 0.18215, downsampling=2)
    assert torch.equal(theirs.encode(x, sample=True), ours.encode(x))
    torch.testing.assert_close(theirs.decode(theirs.encode(x)), x)
    reconstruction, _, sigma = ours(x)
    assert sigma is None
    torch.testing.assert_close(reconstruction, x)


def test_vqvae():
    torch.manual_seed(0)
    levels = {"downsample_parameters": ((2, 4, 1, 1),) * 2, "upsample_parameters": ((2, 4, 1, 1, 0),) * 2}
    sizes = {"channels": (8, 8), "num_res_channels": (8, 8), "num_res_layers": 1}
    inner = VQVAE(2, 1, 1, num_embeddings=8, embedding_dim=5, **levels, **sizes)
    latent_space, x = LatentSpace(inner.eval()), images(2, (16, 15))
    assert (latent_space.downsampling, latent_space.latent_channels) == (4, 5)
    latent_space.measure_scale([x])
    latents = latent_space.encode(x)
    assert latents.shape == (2, 5, 4, 4)
    expected = inner.decode_stage_2_outputs(latents / latent_space.scale_factor)
    torch.testing.assert_close(latent_space.decode(latents), expected)


def test_volumes():
    latent_space = LatentSpace(autoencoder(spatial_dims=3), scale_factor=1.0)
    x = images(1, (6, 5, 3))
    assert latent_space.decode(latent_space.encode(x), size=(6, 5, 3)).shape == x.shape


def test_monais_latent_diffusion_inferer_needs_no_scale_of_its_own():
    class Denoiser(nn.Module):
        def forward(self, x, timesteps=None, context=None):
            return x

    latent_space, x = LatentSpace(autoencoder()), images()
    latent_space.measure_scale([x])
    scheduler = DDIMScheduler(num_train_timesteps=10)
    scheduler.set_timesteps(2)
    inferer = LatentDiffusionInferer(scheduler)
    noise, timesteps = torch.zeros(3, 3, 8, 6), torch.tensor([1, 4, 9])
    noisy = inferer(x, latent_space, Denoiser(), noise, timesteps)
    torch.testing.assert_close(noisy, scheduler.add_noise(latent_space.encode(x), noise, timesteps))
    assert inferer.sample(noise, latent_space, Denoiser(), verbose=False).shape == x.shape


@pytest.mark.parametrize(
    "wrong", [{"scale_factor": 0.0}, {"scale_factor": math.nan}, {"repeat_grey": 0}, {"downsampling": 0}]
)
def test_arguments(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LatentSpace(autoencoder(), **wrong)


def test_modules_that_do_not_serve():
    with pytest.raises(ValueError, match="downsampling must be given for Halves"):
        LatentSpace(Halves())
    with pytest.raises(ValueError, match="autoencoder must have encode or encode_stage_2_inputs, got Linear"):
        LatentSpace(nn.Linear(2, 2), downsampling=2)


def test_nothing_to_measure_the_scale_by():
    latent_space = LatentSpace(Halves(), downsampling=2)
    with pytest.raises(ValueError, match="at least one image"):
        latent_space.measure_scale([])
    for value in (0.3, math.inf):
        with pytest.raises(ValueError, match="latents must vary and be finite"):
            latent_space.measure_scale([torch.full((2, 1, 8, 8), value)])
    assert not latent_space.scale_is_known
