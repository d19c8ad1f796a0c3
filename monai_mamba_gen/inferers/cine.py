"""A heart beat from its end-diastolic and end-systolic volumes, or from the first and a seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.networks.schedulers import Scheduler
from torch import nn

from ..networks.blocks import seed_scan_orders
from ..utils import derive_seed, plain_tensor
from .motion_denoiser import MotionDenoiser
from .phases import PHASE_CURVES, phase_curve
from .sampling import SamplingInferer, _fixed_cpu_threads, _sampling_mode

__all__ = ["CineInferer"]

_MODES = ("auto", "interpolation", "generation")
_MISSING = -1.0


class CineInferer(Inferer):
    """
    Make the frames of a cine by warping an end-diastolic (ED) volume with a `DeformableDiffusion` network.

    Interpolation has the end-systolic (ES) volume, too: one pass at timestep 0 gives the latent code, as in DDM.
    Generation has not: DDIM samples ES volume and code from the noise of a seed, with the ED volume as context and the
    ES volume missing (-1). While the noise is high the denoiser decides what the ES volume looks like, below
    ``warp_timestep`` the deformation does, and at ``code_timestep`` the code is settled, see `MotionDenoiser`. The same
    seed gives the same beat at any batch size, to rounding, and in any number of processes, see `SamplingInferer`.

    Interpolation can be two-sided: the ED volume warped forwards and the ES volume warped back, mixed as ``1 - p`` to
    ``p``, which halves the noise in between and ends in the true ES volume. Displacements, and with them labels, are
    the ED volume's in any case. Generated beats are always the ED volume alone, as its synthetic ES volume is only a
    means.

    After a call ``inferer.result`` holds ``"frames"`` (N, T, H, W, D), ``"displacement"`` (N, T, 3, H, W, D) in voxels,
    ``"displacement_back"`` of the ES volume where it took part, else None, ``"phases"`` (T,) or (N, T), ``"code"``
    (N, C, H, W, D), ``"mode"`` and ``"target"``, the given or synthetic ES volume (N, 1, H, W, D); plain tensors.

    Args:
        scheduler: of the sampling, see `SamplingInferer`.
        num_frames: number of frames, at least 2, where a call names no phases.
        mode: ``"interpolation"``; ``"generation"``, which does not look at a given ES volume; ``"auto"``: interpolation
            where there is an ES volume.
        num_inference_steps: steps of the sampling.
        phase_curve: see `inferers.phase_curve`; ``"auto"``: linear for interpolation, a beat for generation.
        frame: number of the only frame to make, from 0; None or -1 makes all.
        seed: seed of the first sample of a call that names no seeds; the next take ``seed + 1`` and so on.
        cpu_threads: number of threads on a CPU; None takes what torch has, which may change the last bits.
        progress: whether rank 0 shows a progress bar of the sampling.
        order_seed: seed of random scan orders.
        two_sided: whether interpolation warps the ES volume, too. False is DDM's way.
        code_timestep: last timestep that the network is asked at; None: three tenths of the training timesteps.
        warp_timestep: timestep below which the deformed ED volume stands for the denoised one; 0: never; None: half of
            the training timesteps.

    Raises:
        ValueError: when an argument is out of range.

    Example:
        >>> from monai_mamba_gen.networks.nets import cine_model
        >>> from monai_mamba_gen.networks.schedulers import RespacedDDIMScheduler
        >>> inferer = CineInferer(RespacedDDIMScheduler(2000), num_frames=4)
        >>> volume = torch.zeros(1, 1, 8, 8, 4)
        >>> inferer(volume, cine_model("blend"), target=volume + 1)[0, :, 0, 0, 0]
        tensor([0.0000, 0.3333, 0.6667, 1.0000])
    """

    def __init__(
        self,
        scheduler: Scheduler,
        num_frames: int = 10,
        mode: str = "auto",
        num_inference_steps: int = 50,
        phase_curve: str = "auto",
        frame: int | None = None,
        seed: int = 0,
        cpu_threads: int | None = 1,
        progress: bool = False,
        order_seed: int = 0,
        two_sided: bool = True,
        code_timestep: int | None = None,
        warp_timestep: int | None = None,
    ) -> None:
        super().__init__()
        if mode not in _MODES:
            raise ValueError(f"mode must be one of {_MODES}, got {mode!r}")
        if phase_curve not in ("auto", *PHASE_CURVES):
            raise ValueError(f"phase_curve must be one of {('auto', *PHASE_CURVES)}, got {phase_curve!r}")
        if isinstance(num_frames, bool) or not isinstance(num_frames, int) or num_frames < 2:
            raise ValueError(f"num_frames must be an integer of at least 2, got {num_frames!r}")
        if frame is not None and not -1 <= frame < num_frames:
            raise ValueError(f"frame must be from 0 to {num_frames - 1}, or -1 for all, got {frame!r}")
        self.sampler = SamplingInferer(
            scheduler,
            num_inference_steps,
            seed=seed,
            progress=progress,
            order_seed=order_seed,
            cpu_threads=cpu_threads,
        )
        self.num_frames = num_frames
        self.mode = mode
        self.phase_curve = phase_curve
        self.frame = None if frame == -1 else frame
        self.two_sided = two_sided
        timesteps = scheduler.num_train_timesteps
        self.code_timestep = 3 * timesteps // 10 if code_timestep is None else code_timestep
        self.warp_timestep = timesteps // 2 if warp_timestep is None else warp_timestep
        for name, highest in {"code_timestep": timesteps - 1, "warp_timestep": timesteps}.items():
            if not 0 <= getattr(self, name) <= highest:
                raise ValueError(f"{name} must be from 0 to {highest}, got {getattr(self, name)!r}")
        self.result: dict[str, Any] = {}

    def describe(self) -> dict[str, Any]:
        """Return the JSON-like settings that, with network, volumes, noise schedule and seed, determine a cine."""
        sampling = self.sampler.describe()
        kept = ("sampler", "prediction_type", "train_timesteps", "steps", "order_seed")
        own = {"mode": self.mode, "num_frames": self.num_frames, "phase_curve": self.phase_curve, "frame": self.frame}
        own |= {"two_sided": self.two_sided}
        own |= {"code_timestep": self.code_timestep, "warp_timestep": self.warp_timestep}
        return {**own, **{key: sampling[key] for key in kept}}

    def __call__(  # type: ignore[override]
        self,
        inputs: torch.Tensor,
        network: nn.Module,
        target: torch.Tensor | None = None,
        seeds: Sequence[int] | torch.Tensor | None = None,
        phases: Sequence[float] | torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Make one cine for each ED volume.

        Args:
            inputs: ED volumes (N, 1, H, W, D) in [-1, 1], or ED and ES volumes (N, 2, H, W, D).
            network: a `DeformableDiffusion` network or `LinearBlend`.
            target: ES volumes (N, 1, H, W, D).
            seeds: one integer for each volume, for generation; default ``seed, seed + 1, ...``.
            phases: (T,) or (N, T) in [0, 1]; default ``num_frames`` along the phase curve.

        Returns:
            Frames (N, T, H, W, D), or (N, 1, H, W, D) of the only frame; a MetaTensor with the inputs' geometry where
            the inputs are one.

        Raises:
            ValueError: when shapes, seeds or phases do not fit, interpolation has no ES volume, generation has a
                network without denoiser, or sampling gives values that are not finite.
        """
        network = getattr(network, "module", network)  # DistributedDataParallel would wait for the other processes
        source, target = self._volumes(inputs, target)
        mode = self._mode(network, target)
        chosen = self._phases(phases, mode, len(source)).to(source.device)
        code = None
        if mode == "generation":
            target, code = self._sample(network, source, seeds)
        threads = self.sampler.cpu_threads if source.device.type == "cpu" else None
        with _sampling_mode(network), _fixed_cpu_threads(threads):
            seed_scan_orders(network, derive_seed(self.sampler.order_seed, "cine"))
            if code is None:
                timesteps = torch.zeros(len(source), dtype=torch.long, device=source.device)
                _, code = network.predict(target, timesteps, torch.cat([source, target], dim=1))
            frames, displacement = network.animate(source, target, code, chosen)
            back = None
            if self.two_sided and mode == "interpolation" and hasattr(network, "animate_back"):
                others, back = network.animate_back(source, target, code, chosen)
                frames = frames.lerp(others, chosen.to(frames)[..., None, None, None])
        self.result = {"frames": frames, "displacement": displacement, "displacement_back": back, "phases": chosen}
        self.result |= {"code": code, "mode": mode, "target": target}
        return MetaTensor(frames).copy_meta_from(inputs) if isinstance(inputs, MetaTensor) else frames

    @staticmethod
    def _volumes(inputs: torch.Tensor, target: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return ED and ES volumes as plain floating point tensors."""
        if inputs.ndim != 5 or inputs.shape[1] not in (1, 2):
            raise ValueError(f"inputs must be (N, 1 or 2, H, W, D), got {tuple(inputs.shape)}")
        plain = plain_tensor(inputs)
        plain = plain if plain.is_floating_point() else plain.float()
        source = plain[:, :1]
        if target is None:
            return source, plain[:, 1:] if plain.shape[1] == 2 else None
        if target.shape != source.shape:
            raise ValueError(f"target must have shape {tuple(source.shape)}, got {tuple(target.shape)}")
        return source, plain_tensor(target).to(source)

    def _mode(self, network: nn.Module, target: torch.Tensor | None) -> str:
        mode = self.mode if self.mode != "auto" else "generation" if target is None else "interpolation"
        if mode == "interpolation" and target is None:
            raise ValueError("mode 'interpolation' needs an end-systolic volume, and there is none")
        if mode == "generation" and getattr(network, "denoiser", None) is None:
            raise ValueError(
                f"mode 'generation' needs a network with a denoiser (model mstg or ddm), this "
                f"{type(network).__name__} has none; without one, give an end-systolic volume"
            )
        return mode

    def _phases(self, phases: Sequence[float] | torch.Tensor | None, mode: str, count: int) -> torch.Tensor:
        """Return (T,) or (N, T) phases in [0, 1], those of the only frame where one is asked for."""
        if phases is None:
            automatic = "linear" if mode == "interpolation" else "beat"
            chosen = phase_curve(automatic if self.phase_curve == "auto" else self.phase_curve, self.num_frames)
        else:
            chosen = plain_tensor(torch.as_tensor(phases)).float()
            if chosen.ndim not in (1, 2) or not chosen.numel() or (chosen.ndim == 2 and len(chosen) != count):
                raise ValueError(f"phases must be (T,) or ({count}, T), got {tuple(chosen.shape)}")
            if not bool(((chosen >= 0) & (chosen <= 1)).all()):
                raise ValueError(f"phases must be in [0, 1], got {chosen.tolist()}")
        if self.frame is None:
            return chosen
        if self.frame >= chosen.shape[-1]:
            raise ValueError(f"frame must be from 0 to {chosen.shape[-1] - 1}, got {self.frame}")
        return chosen[..., self.frame : self.frame + 1]

    def _sample(
        self, network: nn.Module, source: torch.Tensor, seeds: Sequence[int] | torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return synthetic ES volumes (N, 1, H, W, D) in [-1, 1] and the latent codes of the motion."""
        context = torch.cat([source, torch.full_like(source, _MISSING)], dim=1)
        denoiser = MotionDenoiser(network, self.sampler.scheduler, self.warp_timestep, self.code_timestep)
        target = self.sampler(source, denoiser, seeds=seeds, condition=context).clamp(-1, 1)
        return target, denoiser.code
