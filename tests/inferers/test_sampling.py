"""Sampling: what an image depends on, guidance, geometry and errors."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from monai.data import MetaTensor
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler
from monai.transforms import Invertd, Resized
from torch import nn

from monai_mamba_gen.inferers import SamplingInferer
from monai_mamba_gen.networks.blocks import SS2D
from monai_mamba_gen.networks.schedulers import RespacedDDIMScheduler, RespacedDDPMScheduler

SCHEDULERS = [RespacedDDPMScheduler, RespacedDDIMScheduler, DDIMScheduler]


class ToyNet(nn.Module):
    """A convolution and a scan in random order; its output depends on image, timestep and order."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.scan = SS2D(4, d_state=2, sequence_regeneration="always")
        self.drop = nn.Dropout(0.5)
        self.last = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x, timesteps=None, context=None):
        hidden = self.first(x) + timesteps.to(x).view(-1, 1, 1, 1) / 1000
        return self.last(self.drop(hidden + self.scan(hidden)))


class LabelNet(nn.Module):
    """Predicts the noise ``x * (label + 2)``, so that guidance can be worked out by hand."""

    num_class_embeds = 4

    def forward(self, x, timesteps=None, context=None):
        self.context = context
        return x * (context.to(x).view(-1, 1, 1, 1) + 2)


class ConstantNet(nn.Module):
    """Predicts one value everywhere, or NaN for the second image from the third call on."""

    def __init__(self, value=0.0):
        super().__init__()
        self.value, self.calls = value, 0

    def forward(self, x, timesteps=None, context=None):
        self.calls += 1
        output = torch.full_like(x, self.value)
        if self.calls >= 3:
            output[1] = float("nan")
        return output


def monai_net():
    torch.manual_seed(0)
    settings = {"channels": (8, 8), "attention_levels": (False, True), "norm_num_groups": 4, "num_head_channels": 8}
    net = DiffusionModelUNet(2, 1, 1, num_res_blocks=1, **settings)
    for parameter in net.parameters():  # MONAI starts the last convolution at zero
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return net


def sample(inferer, network, seeds, size=8):
    return inferer(torch.zeros(len(seeds), 1, size, size), network, seeds=seeds)


@pytest.mark.parametrize("make_net", [ToyNet, monai_net])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_same_seed_same_image_at_any_batch_size(scheduler, make_net):
    inferer, network = SamplingInferer(scheduler(20), 5, progress=False), make_net()
    alone = torch.cat([sample(inferer, network, [seed]) for seed in range(17)])
    fours = torch.cat([sample(inferer, network, list(range(start, min(start + 4, 17)))) for start in range(0, 17, 4)])
    together = sample(inferer, network, torch.arange(17))
    assert (alone - together).abs().max() <= 1e-5 and (fours - together).abs().max() <= 1e-5
    assert (together[0] - together[1]).abs().max() > 1e-2
    default = SamplingInferer(scheduler(20), 5, seed=3, progress=False)(torch.zeros(4, 1, 8, 8), network)
    assert (default - together[3:7]).abs().max() <= 1e-5


def test_repeated_call_is_bit_equal_and_leaves_no_trace():
    inferer, network = SamplingInferer(RespacedDDPMScheduler(20), 5, progress=False), ToyNet()
    network.train()
    network.drop.eval()
    state = torch.get_rng_state()
    first = sample(inferer, network, [4, 9])
    assert torch.equal(torch.get_rng_state(), state)
    torch.randn(7)
    assert torch.equal(sample(inferer, network, [4, 9]), first)
    assert network.training and network.scan.training and not network.drop.training
    assert network.scan.order_generator is None and not first.requires_grad


def test_scan_order_comes_from_order_seed():
    network = ToyNet()
    inferers = [SamplingInferer(RespacedDDIMScheduler(20), 4, progress=False, order_seed=seed) for seed in (0, 0, 1)]
    images = [sample(inferer, network, [0]) for inferer in inferers]
    assert torch.equal(images[0], images[1]) and not torch.equal(images[0], images[2])


def test_perfect_network_gives_its_image():
    """With an exact prediction of the original image every sampler ends at it."""

    class Oracle(nn.Module):
        def forward(self, x, timesteps=None, context=None):
            return torch.full_like(x, 0.25)

    for scheduler in SCHEDULERS:
        image = sample(SamplingInferer(scheduler(100, prediction_type="sample"), 10, progress=False), Oracle(), [1, 2])
        torch.testing.assert_close(image, torch.full_like(image, 0.25), atol=1e-4, rtol=0)


@pytest.mark.parametrize("scale", [0.0, 2.5])
def test_guidance(scale):
    network, steps = LabelNet(), 3
    guided = SamplingInferer(RespacedDDIMScheduler(20, clip_sample=False), steps, guidance_scale=scale, progress=False)
    image = guided(torch.zeros(2, 1, 4, 4), network, seeds=[0, 1], condition=torch.tensor([0, 3]))
    assert network.context.tolist() == [0, 3, -1, -1] and network.context.dtype == torch.int64

    class ByHand(nn.Module):  # eps_u = x, eps_c = (label + 2) x
        def forward(self, x, timesteps=None, context=None):
            return x + scale * torch.tensor([1.0, 4.0]).view(2, 1, 1, 1) * x

    plain = SamplingInferer(RespacedDDIMScheduler(20, clip_sample=False), steps, progress=False)
    torch.testing.assert_close(image, plain(torch.zeros(2, 1, 4, 4), ByHand(), seeds=[0, 1]))


class ContextNet(nn.Module):
    """Predicts ``x * (mean of the context + 2) + shift``, with a learned variance of -1 behind it."""

    def __init__(self, learned=False):
        super().__init__()
        self.learned = learned

    def forward(self, x, timesteps=None, context=None, shift=None, name=""):
        self.context, self.shift = context, shift
        output = x * (context.mean((1, 2, 3), keepdim=True) + 2)
        output = output if shift is None else output + shift.reshape(-1, 1, 1, 1)
        return torch.cat([output, torch.full_like(output, -1.0)], dim=1) if self.learned else output


@pytest.mark.parametrize("learned", [False, True])
def test_guidance_with_an_image_as_condition(learned):
    network, scale = ContextNet(learned), 2.5
    condition = torch.stack([torch.full((3, 4, 4), value) for value in (0.0, 0.5)])
    variance = "learned_range" if learned else "fixed_small"
    scheduler = RespacedDDPMScheduler(20, clip_sample=False, variance_type=variance)
    guided = SamplingInferer(scheduler, 3, guidance_scale=scale, progress=False)
    inputs, shift = torch.zeros(2, 1, 4, 4), torch.tensor([0.1, 0.2])
    image = guided(inputs, network, seeds=[0, 1], condition=condition, shift=shift, name="a")
    assert torch.equal(network.context, torch.cat([condition, torch.full_like(condition, -1)]))
    assert torch.equal(network.shift, torch.cat([shift, shift]))

    class ByHand(nn.Module):  # eps_u = x + shift, eps_c = (mean + 2) x + shift
        def forward(self, x, timesteps=None, context=None):
            means = torch.tensor([0.0, 0.5]).view(2, 1, 1, 1)
            return x + shift.view(2, 1, 1, 1) + scale * (means + 1) * x

    plain = SamplingInferer(RespacedDDPMScheduler(20, clip_sample=False), 3, progress=False)
    torch.testing.assert_close(image, plain(inputs, ByHand(), seeds=[0, 1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", SCHEDULERS)
def test_a_learned_variance_is_left_out_by_ddim(make):
    condition, inputs = torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)
    images = [
        SamplingInferer(make(20), 5, progress=False)(inputs, ContextNet(learned), seeds=[0, 1], condition=condition)
        for learned in (False, True)
    ]
    assert images[1].shape == inputs.shape
    torch.testing.assert_close(*images, rtol=0, atol=0)


def test_guidance_needs_a_condition_for_each_image():
    guided = SamplingInferer(RespacedDDIMScheduler(20), 2, guidance_scale=2.0, progress=False)
    with pytest.raises(ValueError, match="guidance without labels needs a floating-point condition"):
        guided(torch.zeros(2, 1, 4, 4), ContextNet())
    with pytest.raises(ValueError, match="condition must have 2 rows, one for each image, got 1"):
        guided(torch.zeros(2, 1, 4, 4), ContextNet(), condition=torch.zeros(1, 1, 4, 4))


def test_labels_without_guidance():
    network = LabelNet()
    sample(SamplingInferer(RespacedDDIMScheduler(20), 2, class_label=3, progress=False), network, [0, 1])
    assert network.context.tolist() == [3, 3]


def test_geometry_survives_invertd():
    data = {"image": MetaTensor(torch.zeros(1, 24, 20), affine=torch.diag(torch.tensor([1.5, 1.5, 1.0, 1.0])))}
    resize = Resized("image", (8, 8))
    resized = resize(data)
    inferer = SamplingInferer(RespacedDDPMScheduler(20), 3, progress=False)
    pred = inferer(resized["image"][None], ToyNet())
    assert isinstance(pred, MetaTensor) and pred.dtype == torch.float32
    resized["pred"] = pred[0]
    torch.testing.assert_close(resized["pred"].affine, resized["image"].affine)
    back = Invertd("pred", resize, orig_keys="image", nearest_interp=False)(resized)["pred"]
    assert back.shape == (1, 24, 20)
    torch.testing.assert_close(back.affine, data["image"].affine)


def test_volumes_and_integer_inputs():
    inferer = SamplingInferer(RespacedDDPMScheduler(20), 2, progress=False)
    image = inferer(torch.zeros(1, 1, 4, 4, 4, dtype=torch.int16), ConstantNet())
    assert image.shape == (1, 1, 4, 4, 4) and image.dtype == torch.float32


def test_bfloat16_network_output():
    class Half(ToyNet):
        def forward(self, x, timesteps=None, context=None):
            return super().forward(x, timesteps, context).bfloat16()

    assert sample(SamplingInferer(RespacedDDPMScheduler(20), 2, progress=False), Half(), [0]).dtype == torch.float32


def test_non_finite_output_names_step_and_seed():
    with pytest.raises(ValueError, match=r"step 3 of 5 \(timestep 10\) for seed 12;"):
        sample(SamplingInferer(RespacedDDPMScheduler(20), 5, progress=False), ConstantNet(), [11, 12, 13])


def test_errors():
    scheduler, network, inputs = RespacedDDPMScheduler(20), ToyNet(), torch.zeros(2, 1, 8, 8)
    with pytest.raises(ValueError, match="cpu_threads must be"):
        SamplingInferer(scheduler, cpu_threads=0)
    with pytest.raises(ValueError, match="RespacedDDPMScheduler instead"):
        SamplingInferer(DDPMScheduler(20))
    for steps in (0, 21, 2.0, True):
        with pytest.raises(ValueError, match="num_inference_steps must be an integer from 1 to 20"):
            SamplingInferer(scheduler, steps)
    with pytest.raises(ValueError, match="num_inference_steps"):
        SamplingInferer(scheduler, 5)(inputs, network, num_inference_steps=30)
    with pytest.raises(ValueError, match="seeds must be 2 integers"):
        SamplingInferer(scheduler, 5)(inputs, network, seeds=[1])
    with pytest.raises(ValueError, match="seeds must be 2 integers"):
        SamplingInferer(scheduler, 5)(inputs, network, seeds=[1.5, 2])
    with pytest.raises(ValueError, match="ToyNet.num_class_embeds is None"):
        SamplingInferer(scheduler, 5, guidance_scale=2.0)(inputs, network, condition=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="needs labels"):
        SamplingInferer(scheduler, 5, guidance_scale=2.0)(inputs, LabelNet())
    with pytest.raises(ValueError, match=r"labels must be in \[0, 4\)"):
        SamplingInferer(scheduler, 5, class_label=4)(inputs, LabelNet())
    with pytest.raises(ValueError, match="labels must have shape"):
        SamplingInferer(scheduler, 5)(inputs, LabelNet(), condition=torch.tensor([1]))
    with pytest.warns(UserWarning, match="RespacedDDIMScheduler does not"):
        SamplingInferer(DDIMScheduler(20), 7)


def test_other_process_gives_the_same_bits():
    """Nothing hangs on the history of a process or on its number of threads: a fresh one gives the same bits."""
    code = f"""
import hashlib, sys, torch
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_sampling import monai_net, SamplingInferer, RespacedDDPMScheduler, sample
torch.set_num_threads(2)
image = sample(SamplingInferer(RespacedDDPMScheduler(20), 5, progress=False), monai_net(), [5, 6, 7, 8])
assert torch.get_num_threads() == 2
print(hashlib.sha256(image.numpy().tobytes()).hexdigest())
"""
    here = sample(SamplingInferer(RespacedDDPMScheduler(20), 5, progress=False), monai_net(), [5, 6, 7, 8])
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == hashlib.sha256(here.numpy().tobytes()).hexdigest()
