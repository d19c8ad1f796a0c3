"""One key of a config switches the model."""

from __future__ import annotations

import inspect

import pytest
import torch

from monai_mamba_gen.networks.nets import MSTG, DDMUNet, DeformableDiffusion, LinearBlend, cine_model

SMALL = {"mstg": "tiny", "ddm": {"channels": (4, 8)}, "channels": (8, 8, 8, 8), "final_conv_channels": (4,)}


@pytest.mark.parametrize(
    ("name", "denoiser", "code_channels", "path"),
    [("mstg", MSTG, 7, "code"), ("ddm", DDMUNet, 0, "code"), ("voxelmorph", type(None), 0, "velocity")],
)
def test_each_model_from_the_same_options(name: str, denoiser: type, code_channels: int, path: str) -> None:
    torch.manual_seed(0)
    net = cine_model(name, **SMALL)
    assert isinstance(net, DeformableDiffusion) and isinstance(net.denoiser, denoiser)
    assert (net.code_channels, net.phase_path, net.integration_steps) == (code_channels, path, 7)
    output = net(torch.randn(1, 1, 12, 9, 6), torch.tensor([4]), torch.rand(1, 2, 12, 9, 6), (0.0, 1.0))
    assert output["frames"].shape == (1, 2, 12, 9, 6)
    sum(value.square().mean() for value in output.values()).backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_blend_and_options() -> None:
    assert isinstance(cine_model("blend", **SMALL), LinearBlend)
    net = cine_model("ddm", **SMALL, code_channels=2, integration_steps=0, phase_path="velocity")
    assert (net.denoiser.out_channels, net.integration_steps, net.phase_path) == (3, 0, "velocity")
    assert cine_model("voxelmorph", **SMALL, code_channels=8).code_channels == 0


def test_mstg_by_preset_with_overrides() -> None:
    net = cine_model("mstg", mstg={"preset": "tiny", "out_channels": 77}, code_channels=5)
    assert net.denoiser.out_channels == 6
    net = cine_model("mstg", mstg="tiny", code_channels=4, target_in_code=False)
    assert (net.denoiser.out_channels, net.code_size) == (5, 5)


def test_unknown_name_lists_the_names() -> None:
    with pytest.raises(ValueError, match=r"\['mstg', 'ddm', 'voxelmorph', 'blend'\], got 'unet'"):
        cine_model("unet")


def test_models_share_their_interface() -> None:
    for method in ("predict", "displacement", "warp", "animate"):
        ours, theirs = (inspect.signature(getattr(kind, method)) for kind in (LinearBlend, DeformableDiffusion))
        assert list(ours.parameters) == list(theirs.parameters)
