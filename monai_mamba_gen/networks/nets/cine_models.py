"""The models of a cine by name, so that one key of a config switches between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from .ddm_unet import DDMUNet
from .deformable_diffusion import DeformableDiffusion
from .linear_blend import LinearBlend
from .mstg import MSTG

__all__ = ["CINE_MODELS", "cine_model"]

CINE_MODELS = ("mstg", "ddm", "voxelmorph", "blend")


def _mstg(options: str | Mapping | None, out_channels: int) -> nn.Module:
    options = {"preset": options} if isinstance(options, str) else dict(options or {})
    preset = options.pop("preset", None)
    build = MSTG if preset is None else lambda **rest: MSTG.from_preset(preset, **rest)
    return build(**{**options, "out_channels": out_channels})


def cine_model(
    name: str,
    mstg: str | Mapping | None = None,
    ddm: Mapping | None = None,
    code_channels: int | None = None,
    integration_steps: int = 7,
    phase_path: str | None = None,
    target_in_code: bool | None = None,
    velocity_stride: int | None = None,
    num_frames: int = 10,
    **deformation: Sequence[int],
) -> nn.Module:
    """
    Build a model that animates an end-diastolic volume.

    Options that do not concern the named model are passed over, so that a config can state all of them.

    Args:
        name: ``"mstg"`` or ``"ddm"``: `DeformableDiffusion` with that denoiser; ``"voxelmorph"``: without one;
            ``"blend"``: `LinearBlend`.
        mstg: name of a preset of `MSTG`, or its arguments, among which ``"preset"`` may be one; None: its defaults.
        ddm: arguments of `DDMUNet`; None: its defaults.
        code_channels: channels of the latent code beyond the prediction; None: 7 for ``"mstg"``, 0 for ``"ddm"``.
        integration_steps: squarings of the integration; 0: displacements, as in DDM.
        phase_path: see `DeformableDiffusion`.
        target_in_code: see `DeformableDiffusion`; None: true for ``"mstg"``, false for ``"ddm"``.
        velocity_stride: see `DeformableDiffusion`; None: 2 for ``"mstg"``, 1 for the others.
        num_frames: frames that the network makes of two volumes alone, see `DeformableDiffusion.interpolate`.
        deformation: ``channels`` and ``final_conv_channels`` of `DeformableDiffusion`.

    Raises:
        ValueError: when there is no such model.

    Example:
        >>> cine_model("ddm").denoiser.out_channels
        1
    """
    if name not in CINE_MODELS:
        raise ValueError(f"cine model must be one of {list(CINE_MODELS)}, got {name!r}")
    if name == "blend":
        return LinearBlend()
    denoiser, code = None, 0
    if name != "voxelmorph":
        code = {"mstg": 7, "ddm": 0}[name] if code_channels is None else code_channels
        denoiser = _mstg(mstg, 1 + code) if name == "mstg" else DDMUNet(**{**(ddm or {}), "out_channels": 1 + code})
    network = DeformableDiffusion(
        denoiser,
        code_channels=code,
        integration_steps=integration_steps,
        phase_path=phase_path,
        velocity_stride=(2 if name == "mstg" else 1) if velocity_stride is None else velocity_stride,
        target_in_code=name == "mstg" if target_in_code is None else target_in_code,
        **deformation,
    )
    network.num_frames = num_frames
    return network
