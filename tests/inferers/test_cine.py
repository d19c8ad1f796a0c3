"""Cines from a network whose answers can be worked out by hand."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from monai_mamba_gen.inferers import CineInferer, SamplingInferer, phase_curve
from monai_mamba_gen.networks.schedulers import RespacedDDIMScheduler

SIZE = (6, 5, 4)


class Blend(nn.Module):
    """Without denoiser: frames between source and target."""

    def predict(self, x, timesteps, context):
        return None, context[:, 1:2]

    def animate(self, source, target, code, phases):
        phases = phases.expand(len(source), -1) if phases.ndim == 1 else phases
        weights = phases.reshape(*phases.shape, 1, 1, 1)
        return (1 - weights) * source + weights * code, torch.zeros(*phases.shape[:2], 3, *source.shape[2:])


class Toy(Blend):
    """With a denoiser of code_channels = 1: depends on image, timestep and both volumes, on nothing random."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.denoiser = nn.Conv3d(3, 2, 3, padding=1)
        self.drop = nn.Dropout(0.5)
        self.seen = []

    def predict(self, x, timesteps, context):
        self.seen.append((x.clone(), timesteps.clone(), context.clone()))
        code = self.drop(
            torch.tanh(self.denoiser(torch.cat([x, context], dim=1))) + timesteps.view(-1, 1, 1, 1, 1) / 1e3
        )
        return code[:, :1], code

    def animate(self, source, target, code, phases):
        return super().animate(source, target, code[:, 1:], phases)


def make(**options):
    options = {"num_frames": 4, "num_inference_steps": 3, **options}
    return CineInferer(RespacedDDIMScheduler(20, clip_sample=True), **options)


def volumes(count=2):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, count, 1, *SIZE, generator=generator) * 2 - 1


def test_interpolation_takes_one_step_from_the_target():
    source, target = volumes()
    network = Toy()
    inferer = make()
    frames = inferer(source, network, target=target)
    ((x, timesteps, context),) = network.seen
    assert torch.equal(x, target) and timesteps.tolist() == [0, 0]
    assert torch.equal(context, torch.cat([source, target], dim=1))
    assert frames.shape == (2, 4, *SIZE) and torch.equal(frames[:, :1], source)
    result = inferer.result
    assert result["mode"] == "interpolation" and torch.equal(result["target"], target)
    assert torch.equal(result["frames"], frames) and torch.equal(result["phases"], phase_curve("linear", 4))
    assert result["displacement"].shape == (2, 4, 3, *SIZE) and result["code"].shape == (2, 2, *SIZE)


def test_two_channels_are_both_volumes():
    source, target = volumes()
    expected = make()(source, Blend(), target=target)
    assert torch.equal(make()(torch.cat([source, target], dim=1), Blend()), expected)
    torch.testing.assert_close(expected[:, 1], (2 * source + target)[:, 0] / 3)


class First(Toy):
    """The diffusion prediction alone, for SamplingInferer."""

    def forward(self, x, timesteps=None, context=None):
        return self.predict(x, timesteps, context)[0]


def test_generation_samples_with_the_target_missing():
    """Without deformation it is plain sampling, and the code is the last step's."""
    source, _ = volumes()
    network, inferer = Toy(), make(code_timestep=0, warp_timestep=0)
    frames = inferer(source, network, seeds=[3, 4])
    assert inferer.result["mode"] == "generation" and torch.equal(inferer.result["phases"], phase_curve("beat", 4))
    assert [int(timesteps[0]) for _, timesteps, _ in network.seen] == inferer.sampler.scheduler.timesteps.tolist()
    for _, _, context in network.seen:
        assert torch.equal(context[:, :1], source) and (context[:, 1] == -1).all()
    target = inferer.result["target"]
    assert target.shape == source.shape and float(target.abs().max()) <= 1 and frames.shape == (2, 4, *SIZE)
    missing = torch.cat([source, torch.full_like(source, -1)], dim=1)
    sampler = SamplingInferer(RespacedDDIMScheduler(20), 3, progress=False)
    assert torch.equal(sampler(source, First(), seeds=[3, 4], condition=missing), target)
    network.eval()
    assert torch.equal(network.predict(*network.seen[-1])[1], inferer.result["code"])


def test_the_deformation_takes_over_and_the_code_settles():
    source, _ = volumes()
    network, inferer = Toy(), make(num_inference_steps=10, code_timestep=8, warp_timestep=12)
    inferer(source, network, seeds=[3, 4])
    steps = [int(timesteps[0]) for _, timesteps, _ in network.seen]
    assert steps == [step for step in inferer.sampler.scheduler.timesteps.tolist() if step >= 8]
    # the ES volume that the sampling ends at is the deformed one, and phase 1 of the beat
    network.eval()
    assert torch.equal(network.predict(*network.seen[-1])[1], inferer.result["code"])
    end, _ = network.animate(source, None, inferer.result["code"], torch.ones(1))
    torch.testing.assert_close(inferer.result["target"], end.clamp(-1, 1), atol=1e-4, rtol=0)
    # before that, plain sampling
    before = Toy()
    make(num_inference_steps=10, code_timestep=0, warp_timestep=0)(source, before, seeds=[3, 4])
    count = sum(step >= 12 for step in steps)
    for (x, _, _), (other, _, _) in zip(network.seen[: count + 1], before.seen):
        assert torch.equal(x, other)
    assert not torch.allclose(network.seen[count + 1][0], before.seen[count + 1][0])


def test_same_seed_same_beat_at_any_batch_size():
    source = volumes(1)[0].expand(5, -1, -1, -1, -1)
    network, inferer = Toy(), make()
    together = inferer(source, network, seeds=range(7, 12))
    alone = torch.cat([inferer(source[:1], network, seeds=[seed]) for seed in range(7, 12)])
    assert (together - alone).abs().max() <= 1e-5
    assert (together[0] - together[1]).abs().max() > 1e-2
    assert torch.equal(make(seed=7)(source, network), together)
    assert torch.equal(inferer(source, network, seeds=torch.arange(7, 12)), together)


def test_generation_does_not_look_at_the_target():
    source, target = volumes()
    inferer = make(mode="generation", phase_curve="cosine")
    frames = inferer(source, Toy(), target=target, seeds=[0, 1])
    assert torch.equal(frames, make(phase_curve="cosine")(source, Toy(), seeds=[0, 1]))
    assert torch.equal(inferer.result["phases"], phase_curve("cosine", 4))


class TwoSided(Blend):
    """Frames made from ED are 0.2 p brighter than it, those made from ES 0.1 (1 - p) darker."""

    def animate(self, source, target, code, phases):
        steps = phases.view(1, -1, 1, 1, 1)
        return source + 0.2 * steps, torch.zeros(len(source), len(phases), 3, *source.shape[2:])

    def animate_back(self, source, target, code, phases):
        steps = phases.view(1, -1, 1, 1, 1)
        return target - 0.1 * (1 - steps), torch.ones(len(source), len(phases), 3, *source.shape[2:])


def test_two_sided_interpolation_mixes_by_phase():
    source, target = volumes()
    inferer = make()
    frames = inferer(source, TwoSided(), target=target, phases=[0.0, 0.25, 1.0])
    assert torch.equal(frames[:, :1], source) and torch.equal(frames[:, 2:], target)
    middle = 0.75 * (source + 0.05) + 0.25 * (target - 0.075)
    torch.testing.assert_close(frames[:, 1:2], middle)
    assert not inferer.result["displacement"].any() and bool((inferer.result["displacement_back"] == 1).all())
    one_sided = make(two_sided=False)
    torch.testing.assert_close(one_sided(source, TwoSided(), target=target, phases=[0.25]), source + 0.05)
    assert one_sided.result["displacement_back"] is None


@pytest.mark.parametrize("timestep", [-1, 20])
def test_wrong_timestep_of_the_code(timestep):
    with pytest.raises(ValueError, match=f"code_timestep must be from 0 to 19, got {timestep}"):
        make(code_timestep=timestep)
    with pytest.raises(ValueError, match="warp_timestep must be from 0 to 20, got 21"):
        make(warp_timestep=21)


def test_generated_beats_are_one_sided():
    source, _ = volumes()

    class Both(Toy, TwoSided):
        pass

    inferer = make()
    inferer(source, Both(), seeds=[1, 2])
    assert inferer.result["mode"] == "generation" and inferer.result["displacement_back"] is None


def test_phases_of_the_call():
    source, target = volumes()
    inferer = make()
    phases = torch.tensor([[0.0, 0.5], [0.25, 1.0]])
    frames = inferer(source, Blend(), target=target, phases=phases)
    torch.testing.assert_close(frames[1, 1], target[1, 0])
    torch.testing.assert_close(frames[1, 0], (0.75 * source + 0.25 * target)[1, 0])
    assert torch.equal(inferer.result["phases"], phases)
    assert inferer(source, Blend(), target=target, phases=[1.0]).shape == (2, 1, *SIZE)


def test_one_frame():
    source, target = volumes()
    every = make(frame=-1)(source, Blend(), target=target)
    inferer = make(frame=2)
    assert torch.equal(inferer(source, Blend(), target=target), every[:, 2:3])
    assert inferer.result["phases"].tolist() == pytest.approx([2 / 3])
    with pytest.raises(ValueError, match="frame must be from 0 to 1, got 2"):
        inferer(source, Blend(), target=target, phases=[0.0, 1.0])


def test_geometry_and_state_are_kept():
    source, target = volumes()
    affine = torch.diag(torch.tensor([1.5, 1.5, 3.15, 1.0], dtype=torch.float64))
    network = Toy().train()
    state = torch.get_rng_state()
    frames = make()(MetaTensor(source, affine=affine), network, seeds=[0, 1])
    assert isinstance(frames, MetaTensor) and torch.equal(frames.affine, affine) and not frames.requires_grad
    assert network.training and network.drop.training and torch.equal(torch.get_rng_state(), state)
    assert not any(isinstance(volume, MetaTensor) for seen in network.seen for volume in seen)
    assert torch.equal(frames.as_tensor(), make()(source, network, seeds=[0, 1])), "no dropout, nothing random"
    assert make()(source.short(), Blend(), target=target).dtype == torch.float32


def test_describe_names_what_determines_a_cine():
    found = make(frame=1, order_seed=5).describe()
    assert found == {
        "mode": "auto",
        "num_frames": 4,
        "phase_curve": "auto",
        "frame": 1,
        "two_sided": True,
        "code_timestep": 6,
        "warp_timestep": 10,
        "sampler": "RespacedDDIMScheduler",
        "prediction_type": "epsilon",
        "train_timesteps": 20,
        "steps": 3,
        "order_seed": 5,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "both"}, "mode must be one of"),
        ({"phase_curve": "sine"}, "phase_curve must be one of"),
        ({"num_frames": 1}, "num_frames must be an integer of at least 2"),
        ({"frame": 4}, "frame must be from 0 to 3"),
        ({"num_inference_steps": 21}, "num_inference_steps must be"),
        ({"cpu_threads": 0}, "cpu_threads"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_wrong_calls():
    source, target = volumes()
    with pytest.raises(ValueError, match="mode 'interpolation' needs an end-systolic volume"):
        make(mode="interpolation")(source, Toy())
    with pytest.raises(ValueError, match="mode 'generation' needs a network with a denoiser"):
        make()(source, Blend())
    with pytest.raises(ValueError, match=r"inputs must be \(N, 1 or 2, H, W, D\)"):
        make()(source[:, 0], Toy())
    with pytest.raises(ValueError, match="target must have shape"):
        make()(source, Toy(), target=target[..., 1:])
    with pytest.raises(ValueError, match="seeds must be 2 integers"):
        make()(source, Toy(), seeds=[1])
    for wrong in ([1.5], [[0.0]], []):
        with pytest.raises(ValueError, match="phases must be"):
            make()(source, Toy(), target=target, phases=wrong)
