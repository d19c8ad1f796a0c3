"""Images to latents of about unit variance and back, by an autoencoder that carries its own scale."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ...utils.distributed import get_world_size
from ..blocks.padding import pad_to_multiple

__all__ = ["LatentSpace"]

_ENCODERS, _DECODERS = ("encode", "encode_stage_2_inputs"), ("decode_stage_2_outputs", "decode")
_SMALLEST_RELATIVE_VARIANCE = 1e-12


def _own_downsampling(autoencoder: nn.Module) -> int | None:
    """Return how many pixels make one latent along each axis, as far as the autoencoder says so; None where not."""
    if hasattr(autoencoder, "downsampling"):
        return int(autoencoder.downsampling)
    encoder = getattr(autoencoder, "encoder", None)
    if hasattr(encoder, "downsample_parameters"):  # MONAI's VQVAE: (stride, kernel, dilation, padding) a level
        return math.prod(int(level[0]) for level in encoder.downsample_parameters)
    if hasattr(encoder, "attention_levels"):  # MONAI's AutoencoderKL halves after every level but the last
        return 2 ** (len(encoder.attention_levels) - 1)
    return None


class LatentSpace(nn.Module):
    """
    The latent space of an autoencoder, scaled to about unit standard deviation, or the pixels themselves.

    Latent diffusion wants latents of unit variance (Rombach et al. 2022, arXiv:2112.10752, appendix G): the latents are
    multiplied by one number, 1 / standard deviation, before the diffusion and divided by it after. The number is a
    buffer here, so it is stored with the weights and cannot be forgotten; it is NaN until `measure_scale` sets it.

    ``forward(images) -> (reconstruction, mean, sigma)`` is for training, with `AutoencoderLoss`: unscaled; a sample of
    the posterior is decoded in training mode, its mean in eval mode, so that a validation repeats.

    Sizes that are no multiple of ``downsampling`` are padded by repeating the last pixels, see `pad_to_multiple`.

    Args:
        autoencoder: MONAI's ``AutoencoderKL`` or ``VQVAE``, or another module with ``encode`` and ``decode`` (or
            ``encode_stage_2_inputs`` and ``decode_stage_2_outputs``). ``encode`` returns ``(mean, sigma)``, one tensor,
            or an object with ``latent_dist`` (diffusers). None: pixel mode, latents are the images and the scale is 1.
        scale_factor: the scale where it is known, as 0.18215 of Stable Diffusion's autoencoder.
        downsampling: pixels for one latent along each axis, where the autoencoder does not say it.
        repeat_grey: number of times that an image of one channel is repeated for the encoder; what is decoded is
            averaged over as many channels. 3 for Stable Diffusion's autoencoder.

    Raises:
        ValueError: when an argument is out of range, or the autoencoder cannot encode or decode; from `encode` and
            `decode`, when the scale is not known yet or the number of channels is another.

    Example:
        >>> from monai.networks.nets import AutoencoderKL
        >>> attention = {"with_encoder_nonlocal_attn": False, "with_decoder_nonlocal_attn": False}
        >>> levels = {"channels": (8, 8), "attention_levels": (False, False), "num_res_blocks": 1, "norm_num_groups": 4}
        >>> latent_space = LatentSpace(AutoencoderKL(2, latent_channels=4, **levels, **attention))
        >>> images = torch.rand(2, 1, 15, 12) * 2 - 1
        >>> _ = latent_space.measure_scale([images])
        >>> latents = latent_space.encode(images)
        >>> latents.shape, latent_space.decode(latents, size=(15, 12)).shape
        (torch.Size([2, 4, 8, 6]), torch.Size([2, 1, 15, 12]))
    """

    def __init__(
        self,
        autoencoder: nn.Module | None = None,
        scale_factor: float | None = None,
        downsampling: int | None = None,
        repeat_grey: int = 1,
    ) -> None:
        super().__init__()
        if scale_factor is not None and not (math.isfinite(scale_factor) and scale_factor > 0):
            raise ValueError(f"scale_factor must be above 0 and finite, got {scale_factor}")
        if repeat_grey < 1:
            raise ValueError(f"repeat_grey must be at least 1, got {repeat_grey}")
        self.autoencoder, self.repeat_grey = autoencoder, repeat_grey
        if autoencoder is None:
            if scale_factor not in (None, 1) or downsampling not in (None, 1) or repeat_grey != 1:
                raise ValueError("without autoencoder, scale_factor, downsampling and repeat_grey must be left out")
            scale_factor, downsampling = 1.0, 1
        else:
            for names in (_ENCODERS, _DECODERS):
                if not any(hasattr(autoencoder, name) for name in names):
                    raise ValueError(f"autoencoder must have {' or '.join(names)}, got {type(autoencoder).__name__}")
            downsampling = _own_downsampling(autoencoder) if downsampling is None else downsampling
        if downsampling is None or downsampling < 1:
            raise ValueError(f"downsampling must be given for {type(autoencoder).__name__}, at least 1")
        self._downsampling = downsampling
        self.scale_factor: torch.Tensor
        self.register_buffer("scale_factor", torch.tensor(math.nan if scale_factor is None else float(scale_factor)))

    @property
    def downsampling(self) -> int:
        """Pixels for one latent along each axis."""
        return self._downsampling

    @property
    def latent_channels(self) -> int | None:
        """Channels of a latent; None where the autoencoder does not say it. 1 in pixel mode."""
        if self.autoencoder is None:
            return 1
        found = (getattr(self.autoencoder, name, None) for name in ("latent_channels", "embedding_dim"))
        return next((int(each) for each in found if each is not None), None)

    @property
    def scale_is_known(self) -> bool:
        """Whether `encode` and `decode` can be used."""
        return bool(torch.isfinite(self.scale_factor))

    def encode(self, images: torch.Tensor, sample: bool = False) -> torch.Tensor:
        """
        Return scaled latents (N, C, h, w) of images (N, 1, H, W) in [-1, 1].

        Args:
            images: the images; h is H / downsampling, rounded up.
            sample: whether a sample of the posterior is taken, with PyTorch's global generator, not its mean.
        """
        self._require_scale()
        mean, sigma = self._posterior(images)
        if sample and sigma is not None:
            mean = mean + sigma * torch.randn_like(sigma)
        return mean * self.scale_factor.to(mean.dtype)

    def decode(self, latents: torch.Tensor, size: Iterable[int] | None = None) -> torch.Tensor:
        """
        Return images (N, 1, H, W), about in [-1, 1] and not clipped, of scaled latents (N, C, h, w).

        Args:
            latents: the latents.
            size: (H, W), what to crop the images to where they were padded; default: h and w times downsampling.
        """
        self._require_scale()
        if self.latent_channels is not None and latents.shape[1] != self.latent_channels:
            raise ValueError(
                f"latents must have {self.latent_channels} channels, those of the autoencoder, got {latents.shape[1]}"
            )
        images = self._decoded(latents / self.scale_factor.to(latents.dtype))
        return images if size is None else self._cropped(images, tuple(size))

    def encode_stage_2_inputs(self, images: torch.Tensor) -> torch.Tensor:
        """Return `encode`: the name that MONAI's ``LatentDiffusionInferer`` calls; leave its scale_factor at 1."""
        return self.encode(images)

    def decode_stage_2_outputs(self, latents: torch.Tensor) -> torch.Tensor:
        """Return `decode`, see `encode_stage_2_inputs`."""
        return self.decode(latents)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return reconstruction, and mean and sigma (None where there is none) of the unscaled posterior."""
        mean, sigma = self._posterior(images)
        noisy = self.training and sigma is not None
        latents = mean + sigma * torch.randn_like(sigma) if noisy else mean
        return self._cropped(self._decoded(latents), images.shape[2:]), mean, sigma

    @torch.no_grad()
    def measure_scale(self, batches: Iterable[torch.Tensor]) -> float:
        """
        Set the scale to 1 / standard deviation over all latents of some images, and return it.

        The means of the posteriors are measured, as `encode` returns them, in eval mode, one batch at a time. With
        several processes each measures its own batches, and all get the same scale; all have to call this.

        Args:
            batches: images (N, 1, H, W), a batch at a time; not read in pixel mode.

        Raises:
            ValueError: when there are no images, or their latents are constant or not finite.
        """
        if self.autoencoder is None:
            return 1.0
        modes = {module: module.training for module in self.modules()}
        self.eval()
        totals = torch.zeros(3, dtype=torch.float64, device=self.scale_factor.device)
        try:
            for images in batches:
                latents = self._posterior(images.to(self.scale_factor.device))[0].double()
                totals += torch.stack([totals.new_tensor(latents.numel()), latents.sum(), latents.square().sum()])
        finally:
            for module, mode in modes.items():
                module.training = mode
        if get_world_size() > 1:
            dist.all_reduce(totals)
        count, total, squares = totals.tolist()
        if count == 0:
            raise ValueError("batches must hold at least one image to measure the scale of the latents")
        variance = (squares - total**2 / count) / count
        if not variance > _SMALLEST_RELATIVE_VARIANCE * squares / count:
            raise ValueError(f"latents must vary and be finite to measure their scale, their variance is {variance:g}")
        self.scale_factor.fill_(variance**-0.5)
        return float(self.scale_factor)

    def _require_scale(self) -> None:
        if not self.scale_is_known:
            raise ValueError(
                "scale_factor is not known yet: load weights that hold it, name it, or measure it with measure_scale"
            )

    def _posterior(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return unscaled mean, and standard deviation where the autoencoder has one."""
        if self.autoencoder is None:
            return images, None
        if self.repeat_grey > 1 and images.shape[1] == 1:
            images = images.expand(-1, self.repeat_grey, *images.shape[2:])
        expected = getattr(getattr(self.autoencoder, "encoder", None), "in_channels", images.shape[1])
        if images.shape[1] != expected:
            raise ValueError(f"images must have {expected} channels, those of the autoencoder, got {images.shape[1]}")
        images = pad_to_multiple(images, self.downsampling)
        name = next(name for name in _ENCODERS if hasattr(self.autoencoder, name))
        code: Any = getattr(self.autoencoder, name)(images)
        if hasattr(code, "latent_dist"):
            return code.latent_dist.mean, code.latent_dist.std
        return (code[0], code[1]) if isinstance(code, (tuple, list)) else (code, None)

    def _decoded(self, latents: torch.Tensor) -> torch.Tensor:
        if self.autoencoder is None:
            return latents
        name = next(name for name in _DECODERS if hasattr(self.autoencoder, name))
        images: Any = getattr(self.autoencoder, name)(latents)
        images = getattr(images, "sample", images)
        return images.mean(dim=1, keepdim=True) if self.repeat_grey > 1 else images

    @staticmethod
    def _cropped(images: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
        return images[(..., *(slice(length) for length in size))]
