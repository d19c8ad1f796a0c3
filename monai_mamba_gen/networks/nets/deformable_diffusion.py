"""
A diffusion denoiser whose output, scaled by the phase, drives a deformation network.

After the Diffusion Deformable Model (Kim & Ye, MICCAI 2022); with `MSTG` or `DDMUNet` as denoiser, or none: VoxelMorph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from monai.networks.nets import VoxelMorphUNet
from torch import nn

from ..blocks import pad_to_multiple
from ..blocks.displacement import at_least_float32, integrate_velocity, warp_frames
from ..blocks.phases import expand_phases
from .interpolation import InterpolationNetwork

__all__ = ["DeformableDiffusion"]

_PHASE_PATHS = ("code", "velocity")
_UNET_OUT_CHANNELS = 16

Phases = torch.Tensor | Sequence[float] | float


class DeformableDiffusion(InterpolationNetwork):
    """
    The heart beat as a deformation of its end-diastolic (ED) volume.

    The denoiser sees a (noisy) end-systolic (ES) volume, the diffusion time and the frames at ED and ES. All its output
    channels are the latent code, of ``code_size`` channels; the first is the diffusion prediction as well. A U-Net
    (MONAI's ``VoxelMorphUNet``) of the ED volume and the code gives a velocity in voxels, scaling and squaring a
    displacement u, and the frame at phase p is ``ED(x + u_p(x))``. Phase 0 is the ED volume to the last bit.
    ``forward`` does it all at once, for training; inferers call `predict` and `animate`.

    With the defaults the deformation net has 364,691 parameters, DDM's 361,299. As there: five resolutions, 16 channels
    at the finest and 8 before the output. Different, because MONAI's network is so: pooling for strided convolutions,
    nearest neighbour for transposed ones; 48 channels at the coarsest level make up for it. DDM has no integration
    (``integration_steps=0``), does not subtract the net's answer to a code of zero, and borders with zeros.

    Args:
        denoiser: network with ``forward(x, timesteps, context)`` and ``1 + code_channels`` output channels. None:
            VoxelMorph alone, the code is the ES volume and there is no prediction.
        code_channels: channels of the code beyond the prediction; an even number, with ``target_in_code`` an odd one,
            as MONAI's network wants it.
        target_in_code: whether the ES volume of the context is the code's last channel, so that the denoiser need not
            pass it on. False is DDM's way; without a denoiser the ES volume is the code in any case.
        channels: channels of the deformation net in MONAI's order: down and up of each level, finest first.
        final_conv_channels: channels of its last convolutions at full resolution.
        integration_steps: squarings of the integration; 0: the velocity is the displacement.
        phase_path: where the phase enters. ``"code"``: ``v(p) = net(ED, p * code) - net(ED, 0)``; ``"velocity"``:
            ``v(p) = p * net(ED, code)``. None: ``"code"`` with a denoiser, else ``"velocity"``.
        velocity_stride: the deformation net works on averages of so many voxels a side, and its velocity is
            interpolated. 2, as in VoxelMorph's own code, takes an eighth of the time; motion is smooth.

    Raises:
        ValueError: naming the argument, its value and what is allowed.

    Example:
        >>> net = DeformableDiffusion(None)
        >>> ed_es = torch.rand(1, 2, 16, 16, 5) * 2 - 1
        >>> output = net(None, context=ed_es, phases=(0.5, 1.0))
        >>> output["frames"].shape, output["displacement"].shape
        (torch.Size([1, 2, 16, 16, 5]), torch.Size([1, 2, 3, 16, 16, 5]))
    """

    def __init__(
        self,
        denoiser: nn.Module | None,
        code_channels: int = 0,
        channels: Sequence[int] = (16, 32, 32, 32, 32, 32, 48, 48),
        final_conv_channels: Sequence[int] = (8,),
        integration_steps: int = 7,
        phase_path: str | None = None,
        target_in_code: bool = False,
        velocity_stride: int = 1,
    ) -> None:
        super().__init__()
        phase_path = phase_path or ("velocity" if denoiser is None else "code")
        if phase_path not in _PHASE_PATHS:
            raise ValueError(f"phase_path must be one of {list(_PHASE_PATHS)} or None, got {phase_path!r}")
        target_in_code = target_in_code and denoiser is not None
        if code_channels < 0 or code_channels % 2 != target_in_code or (denoiser is None and code_channels):
            allowed = "an odd number with target_in_code" if target_in_code else "an even number, 0 or more"
            allowed = "0 without a denoiser" if denoiser is None else allowed
            raise ValueError(f"code_channels must be {allowed}, got {code_channels}")
        given = getattr(denoiser, "out_channels", 1 + code_channels)
        if given != 1 + code_channels:
            raise ValueError(f"denoiser must have 1 + code_channels = {1 + code_channels} out_channels, got {given}")
        if integration_steps < 0:
            raise ValueError(f"integration_steps must not be negative, got {integration_steps}")
        if velocity_stride < 1:
            raise ValueError(f"velocity_stride must be at least 1, got {velocity_stride}")
        if len(channels) < 2 or len(channels) % 2:
            raise ValueError(f"channels must come in pairs, got {tuple(channels)}")
        self.denoiser = denoiser
        self.target_in_code = target_in_code
        self.code_size = 1 + code_channels + target_in_code
        self.code_channels, self.integration_steps, self.phase_path = code_channels, integration_steps, phase_path
        self.velocity_stride = velocity_stride
        self.stride = velocity_stride * 2 ** (len(channels) // 2)
        self.deformation = VoxelMorphUNet(
            spatial_dims=3,
            in_channels=1 + self.code_size,
            unet_out_channels=_UNET_OUT_CHANNELS,
            channels=tuple(channels),
            final_conv_channels=tuple(final_conv_channels),
        )
        last = [module for module in self.deformation.modules() if isinstance(module, nn.Conv3d)][-1]
        nn.init.normal_(last.weight, std=1e-5)  # VoxelMorph's: training starts at the identity
        nn.init.zeros_(last.bias)

    def predict(
        self, x: torch.Tensor | None, timesteps: torch.Tensor | None = None, context: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """
        Run the denoiser.

        Args:
            x: noisy ES volumes, (N, 1, H, W, D); not looked at without a denoiser.
            timesteps: diffusion time, (N,) or (1,); None: zeros.
            context: frames at ED and ES, (N, 2, H, W, D) in [-1, 1], -1 everywhere where one is not known.

        Returns:
            prediction (N, 1, H, W, D), None without a denoiser; code (N, code_size, H, W, D), all output channels of
            the denoiser and, with ``target_in_code``, the ES volume. float32 also under autocast.
        """
        if self.denoiser is None:
            return None, at_least_float32(self._frames(context)[:, 1:2])
        code = at_least_float32(self.denoiser(x, timesteps=timesteps, context=context))
        prediction = code[:, :1]
        if self.target_in_code:
            code = torch.cat([code, self._frames(context)[:, 1:2].to(code)], dim=1)
        return prediction, code

    def velocity(self, source: torch.Tensor, code: torch.Tensor, phases: Phases) -> torch.Tensor:
        """Return the velocities (N, P, 3, H, W, D) in voxels, arguments as in `displacement`."""
        return torch.stack(list(self._velocities(source, code, phases)), dim=1)

    def displacement(self, source: torch.Tensor, code: torch.Tensor, phases: Phases) -> torch.Tensor:
        """
        Return where each voxel of each frame comes from.

        Args:
            source: ED volumes, (N, 1, H, W, D).
            code: latent code, (N, code_size, H, W, D).
            phases: 0 end diastole, 1 end systole; (P,) or (N, P).

        Returns:
            (N, P, 3, H, W, D) in voxels; exactly zero at phase 0.
        """
        fields = [integrate_velocity(each, self.integration_steps) for each in self._velocities(source, code, phases)]
        return torch.stack(fields, dim=1)

    def warp(self, volume: torch.Tensor, displacement: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
        """
        Warp a volume or, with ``mode="nearest"``, labels.

        Args:
            volume: (N, 1, H, W, D).
            displacement: (N, P, 3, H, W, D), voxels.
            mode: ``"bilinear"`` or ``"nearest"``.

        Returns:
            (N, P, H, W, D); see `warp_frames`.
        """
        return warp_frames(volume, displacement, mode)

    @torch.no_grad()
    def animate(
        self, source: torch.Tensor, target: torch.Tensor | None, code: torch.Tensor, phases: Phases
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Return the frames (N, P, H, W, D) and displacements (N, P, 3, H, W, D) of a beat, without gradients.

        Beyond the result, memory is that of one frame.

        Args:
            source: ED volumes, (N, 1, H, W, D).
            target: not used; other models blend with it.
            code: latent code, (N, code_size, H, W, D).
            phases: 0 end diastole, 1 end systole; (P,) or (N, P).
        """
        return self._warp_each(source, self._velocities(source, code, phases), expand_phases(phases, source).shape[1])

    @torch.no_grad()
    def animate_back(
        self, source: torch.Tensor, target: torch.Tensor, code: torch.Tensor, phases: Phases
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Return the same beat as `animate` does, made of the ES volume: ``ES(x + w_p(x))``.

        ``w_p`` integrates ``v(p) - v(1)``, the rest of the way to end systole: where a voxel at phase p stands at phase
        1. At phase 1 it is zero to the last bit. Exact for ``phase_path="velocity"``, where all velocities are
        multiples of one; to first order else.

        Args:
            source: ED volumes, (N, 1, H, W, D).
            target: ES volumes, (N, 1, H, W, D).
            code: latent code, (N, code_size, H, W, D).
            phases: 0 end diastole, 1 end systole; (P,) or (N, P).
        """
        phases = expand_phases(phases, source)
        velocities = self._velocities(source, code, torch.cat([torch.ones_like(phases[:, :1]), phases], dim=1))
        end = next(velocities)
        return self._warp_each(target, (velocity - end for velocity in velocities), phases.shape[1])

    def _warp_each(
        self, volume: torch.Tensor, velocities: Iterator[torch.Tensor], count: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Warp a volume by one velocity after the other, into results made once."""
        frames = displacement = None
        for index, velocity in enumerate(velocities):
            field = integrate_velocity(velocity, self.integration_steps)
            frame = warp_frames(volume, field[:, None])[:, 0]
            if frames is None:
                frames = frame.new_empty((frame.shape[0], count, *frame.shape[1:]))
                displacement = field.new_empty((field.shape[0], count, *field.shape[1:]))
            frames[:, index], displacement[:, index] = frame, field
        return frames, displacement

    def forward(
        self,
        x: torch.Tensor | None,
        timesteps: torch.Tensor | None = None,
        context: torch.Tensor | None = None,
        phases: Phases | None = None,
    ) -> dict[str, torch.Tensor] | torch.Tensor:
        """
        Predict and deform in one call, as training needs it; or, of two volumes and no context, `interpolate`.

        Args:
            x: noisy ES volumes, (N, 1, H, W, D).
            timesteps: diffusion time, (N,) or (1,); None: zeros.
            context: frames at ED and ES, (N, 2, H, W, D) in [-1, 1]; the first is the volume that is deformed.
            phases: (P,) or (N, P); None: phase 1 alone.

        Returns:
            dict with ``"prediction"`` (N, 1, H, W, D) (absent without a denoiser), ``"code"``
            (N, code_size, H, W, D), ``"phases"`` (N, P), ``"velocity"`` and ``"displacement"``
            (N, P, 3, H, W, D) in voxels, and ``"frames"`` (N, P, H, W, D). All float32 also under autocast.

        Raises:
            ValueError: when shapes do not fit.
        """
        if context is None and x is not None and x.shape[1:2] == (2,):
            return self.interpolate(x, phases)
        source = self._frames(context)[:, :1]
        prediction, code = self.predict(x, timesteps, context)
        phases = expand_phases((1.0,) if phases is None else phases, source)
        velocity = self.velocity(source, code, phases)
        fields = [integrate_velocity(each, self.integration_steps) for each in velocity.unbind(dim=1)]
        displacement = torch.stack(fields, dim=1)
        output = {} if prediction is None else {"prediction": prediction}
        return output | {
            "code": code,
            "phases": phases,
            "velocity": velocity,
            "displacement": displacement,
            "frames": self.warp(source, displacement),
        }

    @staticmethod
    def _frames(context: torch.Tensor | None) -> torch.Tensor:
        if context is None or context.ndim != 5 or context.shape[1] < 2:
            given = None if context is None else tuple(context.shape)
            raise ValueError(f"context must be (N, 2, H, W, D), end diastole and end systole, got {given}")
        return context

    def _velocities(self, source: torch.Tensor, code: torch.Tensor, phases: Phases) -> Iterator[torch.Tensor]:
        """Yield the velocity (N, 3, H, W, D) of each phase; what does not depend on the phase is computed once."""
        expected = (source.shape[0], self.code_size, *source.shape[2:])
        if source.ndim != 5 or source.shape[1] != 1:
            raise ValueError(f"source must be (N, 1, H, W, D), got {tuple(source.shape)}")
        if tuple(code.shape) != expected:
            raise ValueError(f"code must be {expected}, got {tuple(code.shape)}")
        scales = expand_phases(phases, source).unbind(dim=1)  # P times (N,)
        scales = [scale[:, None, None, None, None] for scale in scales]
        if self.phase_path == "velocity":
            velocity = self._deform(source, code)
            yield from (scale * velocity for scale in scales)
            return
        rest = self._deform(source, torch.zeros_like(code))
        for scale in scales:
            velocity = self._deform(source, code * scale) - rest
            yield torch.where(scale == 0, torch.zeros_like(velocity), velocity)

    def _deform(self, source: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        """Return the deformation net's answer (N, 3, H, W, D), float32 or float64."""
        height, width, depth = source.shape[2:]
        inputs = pad_to_multiple(torch.cat([source, code.to(source.dtype)], dim=1), self.stride)
        stride = self.velocity_stride
        if stride == 1:
            return at_least_float32(self.deformation(inputs)[..., :height, :width, :depth])
        coarse = at_least_float32(self.deformation(F.avg_pool3d(inputs, stride)))
        fine = F.interpolate(coarse, size=inputs.shape[2:], mode="trilinear", align_corners=False)
        return stride * fine[..., :height, :width, :depth]
