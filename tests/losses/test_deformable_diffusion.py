"""Each term by itself against a value known in advance, and their sum."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from monai_mamba_gen.losses import DeformableDiffusionLoss

SIZE = (12, 11, 9)
OFF = {"similarity_weight": 0.0, "smoothness_weight": 0.0}


def volume(seed: int = 0, size: tuple[int, ...] = SIZE, frames: int = 1) -> torch.Tensor:
    return torch.rand(1, frames, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def output(frames: torch.Tensor, velocity: torch.Tensor | None = None, **more: torch.Tensor) -> dict:
    zeros = torch.zeros(1, frames.shape[1], 3, *frames.shape[2:])
    return {"frames": frames, "velocity": zeros if velocity is None else velocity, **more}


def linear_field(matrix: torch.Tensor, size: tuple[int, ...] = SIZE) -> torch.Tensor:
    """v = A x, (1, 1, 3, H, W, D)."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in size], indexing="ij"))
    return torch.einsum("ij,jhwd->ihwd", matrix, grid)[None, None]


@pytest.mark.parametrize("size", [SIZE, (16, 16, 8), (16, 5, 3)])
def test_same_volumes_are_minus_one(size: tuple[int, ...]) -> None:
    loss = DeformableDiffusionLoss(similarity_weight=3.0)
    value = loss(output(volume(size=size)), {"volume": volume(size=size)})
    assert value.item() == pytest.approx(-3.0, abs=1e-3)
    assert loss.parts["similarity"] == pytest.approx(-1.0, abs=1e-3) and loss.parts["smoothness"] == 0.0


def test_similarity_knows_no_contrast_and_sees_noise() -> None:
    loss = DeformableDiffusionLoss(similarity_weight=1.0, smoothness_weight=0.0, kernel_size=5)
    weaker = loss(output(0.5 * volume() - 0.5), {"volume": volume()})  # half the contrast, -1 stays -1
    assert weaker.item() == pytest.approx(-1.0, abs=1e-3)
    assert -0.5 < loss(output(volume(1)), {"volume": volume()}).item() < 0.0


def test_similarity_is_the_squared_correlation() -> None:
    size = (3, 3, 3)  # the cube round the centre is the volume; those round the others see zeros outside
    a, b = (volume(seed, size) for seed in (0, 1))
    grey_a, grey_b = ((each.flatten() + 1) / 2 for each in (a, b))
    expected = torch.corrcoef(torch.stack([grey_a, grey_b]))[0, 1].square()
    padded = [torch.nn.functional.pad((each + 1) / 2, (1,) * 6) for each in (a, b)]
    cubes = [each.unfold(2, 3, 1).unfold(3, 3, 1).unfold(4, 3, 1).reshape(27, 27) for each in padded]
    by_hand = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1].square() for pair in zip(*cubes, strict=True)])
    torch.testing.assert_close(by_hand[13], expected)
    loss = DeformableDiffusionLoss(similarity_weight=1.0, smoothness_weight=0.0, kernel_size=9)
    assert loss(output(a), {"volume": b}).item() == pytest.approx(-by_hand.mean().item(), abs=1e-4)


@pytest.mark.parametrize("grey", [-1.0, 0.37, 1.0])
def test_flat_volumes_count_nothing(grey: float) -> None:
    flat = torch.full((1, 1, 24, 24, 12), grey)
    loss = DeformableDiffusionLoss(similarity_weight=1.0, smoothness_weight=0.0)
    noisy = flat + 1e-5 * torch.randn(1, 1, 24, 24, 12, generator=torch.Generator().manual_seed(0))
    loss(output(noisy), {"volume": flat})
    inner = flat.clone()
    inner[..., 10:14, 10:14, 4:8] = -grey if grey else 0.0
    loss(output(inner), {"volume": flat})
    assert -1.0 <= loss.parts["similarity"] <= 0.0
    assert (loss(output(flat), {"volume": flat}) >= -1.0).item()


def test_kernel_shrinks_to_the_largest_odd_number_that_fits() -> None:
    small = (16, 16, 6)
    value = DeformableDiffusionLoss(kernel_size=9)(output(volume(1, small)), {"volume": volume(0, small)})
    same = DeformableDiffusionLoss(kernel_size=5)(output(volume(1, small)), {"volume": volume(0, small)})
    other = DeformableDiffusionLoss(kernel_size=3)(output(volume(1, small)), {"volume": volume(0, small)})
    assert torch.equal(value, same) and not torch.equal(value, other)


def test_smoothness_of_a_linear_field() -> None:
    matrix = torch.tensor([[0.1, -0.2, 0.0], [0.3, 0.0, 0.05], [0.0, 0.0, -0.4]])
    loss = DeformableDiffusionLoss(similarity_weight=0.0, smoothness_weight=2.0)
    value = loss(output(volume(), linear_field(matrix)), {"volume": volume()})
    expected = matrix.square().sum().item() / 3  # squared Frobenius norm, averaged over the components
    assert loss.parts["smoothness"] == pytest.approx(expected, rel=1e-4)
    assert value.item() == pytest.approx(2 * expected, rel=1e-4)


def test_smoothness_of_the_last_phase_alone() -> None:
    velocity = torch.cat([torch.randn(1, 1, 3, *SIZE), torch.ones(1, 1, 3, *SIZE)], dim=1)
    loss = DeformableDiffusionLoss()
    loss(output(volume(frames=2), velocity), {"volume": volume()})
    assert loss.parts["smoothness"] == 0.0


@pytest.mark.parametrize("size", [(12, 8, 1), (12, 8, 2)])
def test_volumes_of_one_or_two_slices(size: tuple[int, ...]) -> None:
    matrix = torch.diag(torch.tensor([0.3, 0.0, 0.0]))
    loss = DeformableDiffusionLoss()
    assert torch.isfinite(loss(output(volume(size=size), linear_field(matrix, size)), {"volume": volume(size=size)}))
    assert loss.parts["smoothness"] == pytest.approx(0.03, rel=1e-4)


def test_prediction_error() -> None:
    loss = DeformableDiffusionLoss(**OFF)
    value = loss(output(volume(), prediction=torch.full((1, 1, *SIZE), 0.5)), {"prediction": torch.zeros(1, 1, *SIZE)})
    assert value.item() == pytest.approx(0.25)
    assert loss.parts == {"prediction": 0.25, "loss": 0.25}


def test_frame_error() -> None:
    loss = DeformableDiffusionLoss(**OFF, frame_weight=4.0)
    frames = volume(frames=3)
    truth = frames[:, :-1] + torch.tensor([0.1, 0.3]).reshape(1, 2, 1, 1, 1)
    value = loss(output(frames), {"frames": truth, "volume": volume()})
    assert loss.parts["frames"] == pytest.approx(0.05, rel=1e-4) and value.item() == pytest.approx(0.2, rel=1e-4)


@pytest.mark.parametrize(("share", "expected"), [(0.25, 0.0), (0.45, 0.04)])
def test_path_error(share: float, expected: float) -> None:
    loss = DeformableDiffusionLoss(**OFF, path_weight=5.0)
    velocity = torch.stack([torch.full((1, 3, *SIZE), share), torch.ones(1, 3, *SIZE)], dim=1)
    value = loss(output(volume(frames=2), velocity, phases=torch.tensor([[0.25, 1.0]])), {"volume": volume()})
    assert loss.parts["path"] == pytest.approx(expected, abs=1e-6)
    assert value.item() == pytest.approx(5 * expected, abs=1e-5)


def test_sum_of_all_terms() -> None:
    weights = {"similarity": 2.0, "smoothness": 3.0, "frame": 5.0, "path": 7.0}
    loss = DeformableDiffusionLoss(**{f"{name}_weight": weight for name, weight in weights.items()}, kernel_size=5)
    made = output(
        volume(frames=2),
        torch.randn(1, 2, 3, *SIZE),
        phases=torch.tensor([[0.5, 1.0]]),
        prediction=volume(3),
    )
    value = loss(made, {"prediction": volume(4), "volume": volume(5), "frames": volume(6)})
    parts = loss.parts
    assert sorted(parts) == ["frames", "loss", "path", "prediction", "similarity", "smoothness"]
    expected = parts["prediction"] + 2 * parts["similarity"] + 3 * parts["smoothness"] + 5 * parts["frames"]
    assert value.item() == pytest.approx(expected + 7 * parts["path"], rel=1e-5)
    assert value.item() == pytest.approx(parts["loss"], rel=1e-6)


def test_motion_counts_where_the_target_was_known() -> None:
    """Of four samples, one without its ES volume: its prediction counts, its motion does not."""
    loss = DeformableDiffusionLoss(similarity_weight=2.0, smoothness_weight=3.0, path_weight=4.0)
    draw = torch.Generator().manual_seed(0)
    frames, velocity = torch.rand(4, 2, *SIZE, generator=draw), torch.rand(4, 2, 3, *SIZE, generator=draw)
    made = {"frames": frames, "velocity": velocity, "phases": torch.tensor([[0.5, 1.0]] * 4)}
    truth = {"volume": torch.rand(4, 1, *SIZE, generator=draw)}
    predicted = {"prediction": torch.rand(4, 1, *SIZE, generator=draw)}, {"prediction": torch.zeros(4, 1, *SIZE)}
    known = torch.tensor([True, False, True, True])
    whole = loss(made | predicted[0], truth | predicted[1] | {"known": known})
    motion = loss({k: v[known] for k, v in made.items()}, {k: v[known] for k, v in truth.items()})
    error = predicted[0]["prediction"].square().mean()
    torch.testing.assert_close(whole, error + 0.75 * motion)


def test_prediction_counts_where_there_was_noise() -> None:
    loss = DeformableDiffusionLoss(**OFF)
    frames = torch.zeros(4, 1, *SIZE)
    made = {"frames": frames, "velocity": torch.zeros(4, 1, 3, *SIZE), "prediction": torch.ones(4, 1, *SIZE)}
    made["prediction"][1] = 100.0
    truth = {"volume": frames, "prediction": torch.zeros(4, 1, *SIZE)}
    assert loss(made, truth | {"noisy": torch.tensor([True, False, True, True])}).item() == pytest.approx(0.75)
    assert loss(made, truth | {"noisy": torch.zeros(4, dtype=torch.bool)}).item() == 0.0


def test_motion_of_nothing_known_has_zero_gradients() -> None:
    loss = DeformableDiffusionLoss()
    frames, velocity = volume().requires_grad_(), torch.rand(1, 1, 3, *SIZE).requires_grad_()
    prediction = volume(1)
    made = output(frames, velocity, prediction=prediction)
    value = loss(made, {"volume": volume(2), "prediction": prediction, "known": torch.tensor([False])})
    value.backward()
    assert value.item() == 0.0
    assert not frames.grad.any() and not velocity.grad.any()


def test_what_does_not_apply_is_left_out() -> None:
    loss = DeformableDiffusionLoss(frame_weight=1.0, path_weight=1.0)
    loss(output(volume()), {"volume": volume()})
    assert sorted(loss.parts) == ["loss", "similarity", "smoothness"]
    loss(output(volume(frames=2), phases=torch.tensor([[0.5, 1.0]])), {"volume": volume()})
    assert sorted(loss.parts) == ["loss", "path", "similarity", "smoothness"]


def test_gradients_reach_frames_velocity_and_prediction() -> None:
    loss = DeformableDiffusionLoss(frame_weight=1.0, path_weight=1.0)
    leaves = {
        "frames": volume(frames=2).requires_grad_(),
        "velocity": torch.randn(1, 2, 3, *SIZE).requires_grad_(),
        "prediction": volume(3).requires_grad_(),
    }
    made = {**leaves, "phases": torch.tensor([[0.5, 1.0]])}
    loss(made, {"prediction": volume(4), "volume": volume(5), "frames": volume(6)}).backward()
    for leaf in leaves.values():
        assert torch.isfinite(leaf.grad).all() and leaf.grad.abs().sum() > 0


def test_training_is_not_told_about_monai_indexing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DeformableDiffusionLoss()(output(volume()), {"volume": volume()})


def test_precisions_and_copies() -> None:
    loss, made, target = DeformableDiffusionLoss(), output(volume(1)), {"volume": volume()}
    expected = loss(made, target)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(made, target), expected)
    double = loss({key: value.double() for key, value in made.items()}, {"volume": volume().double()})
    assert double.dtype == torch.float64 and double.item() == pytest.approx(expected.item(), rel=1e-3)
    assert copy.deepcopy(loss).parts == loss.parts
    assert isinstance(loss, nn.Module) and not list(loss.parameters())


def test_wrong_arguments() -> None:
    loss = DeformableDiffusionLoss(frame_weight=1.0)
    with pytest.raises(ValueError, match="target must have 'volume', it has \\[\\]"):
        loss(output(volume()), {})
    with pytest.raises(ValueError, match=r"target 'volume' must be \(1, 1, 12, 11, 9\), got"):
        loss(output(volume()), {"volume": volume(frames=2)})
    with pytest.raises(ValueError, match=r"target 'frames' must be \(1, 1, 12, 11, 9\), got \(1, 2"):
        loss(output(volume(frames=2)), {"volume": volume(), "frames": volume(frames=2)})
    with pytest.raises(ValueError, match="target must have 'prediction'"):
        loss(output(volume(), prediction=volume()), {"volume": volume()})
    with pytest.raises(ValueError, match=r"weights must not be negative, got \{'path': -1.0\}"):
        DeformableDiffusionLoss(path_weight=-1.0)
    with pytest.raises(ValueError, match="kernel_size must be odd and positive, got 4"):
        DeformableDiffusionLoss(kernel_size=4)
    with pytest.raises(ValueError, match="weights must not all be 0"):
        DeformableDiffusionLoss(**OFF)(output(volume()), {"volume": volume()})
