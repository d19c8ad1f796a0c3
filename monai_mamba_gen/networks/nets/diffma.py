"""
DiffMa: Soft Masked Mamba, the denoiser of a latent diffusion model from CT to MR.

Wang et al. 2024, arXiv 2406.15910. Written from a description of the published network, whose weights load into it;
docs/fidelity.md lists what is chosen here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ...utils import state_dict_mismatch
from ..blocks import ContextEmbedding, ScriptableDenoiser, SinusoidEmbedding, expand_timesteps
from .diffma_denoiser import DiffMaDenoiser, expect_shape, released_arguments
from .vision_embedder import VisionEmbedder

__all__ = ["DiffMa"]

_DEPTHS = {"S": 4, "B": 8, "L": 16, "XL": 28, "XXL": 56}
_POSITION_SCALE = 1000  # a place in 0..1 becomes a number of the size of a diffusion time


class DiffMa(DiffMaDenoiser):
    """
    Noise predictor of DiffMa: Mamba blocks on the patches of a noisy latent, given the latent of a source image.

    DiffMa (Wang et al. 2024). Every block reads the tokens by rows and along a spiral in both ways, once as they are
    and once times a soft mask that a `VisionEmbedder` makes of the source; time, an embedding of the source image and
    the mean of its tokens modulate the blocks. The input of block i of the second half is the sum of the outputs of
    blocks i - 1 and ``num_layers - 1 - i``. Sizes that are no multiple of the patch are padded inside and cropped back.

    A source whose values are all -1, which is what MONAI's inferers fill in for "no condition", has learned null
    tokens, a learned null embedding and a soft mask of a half: what classifier-free guidance needs.

    Args:
        spatial_dims: number of spatial dimensions; 2.
        in_channels: channels of the noisy latent.
        out_channels: channels of the prediction; default ``in_channels``.
        context_channels: channels of the source's latent; default ``in_channels``.
        image_size: rows and columns of the latent in training, one number for both or one each; other sizes work too.
        patch_size: side of a patch.
        hidden_size: channels D of a token, a multiple of 4.
        num_layers: number of blocks.
        d_state: see `Mamba`.
        d_conv: see `Mamba`.
        expand: see `Mamba`.
        dt_rank: see `Mamba`.
        learn_sigma: whether to predict a variance too, which doubles the channels of the output.
        scan_order: ``"spiral"``: what the paper says; ``"released"``: what its code does, square sizes only;
            ``"raster"``: by rows, both ways. See `diffma_orders`.
        concat_context: whether the source's latent is a further input of the patches, and not the soft mask alone what
            tells where things are; an option beyond the paper, as are the next two.
        slice_position: whether `forward` takes the place of a slice in its volume.
        num_directions: number of translations one network knows, such as CT to MR and MR to CT; 0: one, unnamed.
        embedder: whether the network has a `VisionEmbedder` and a learned embedding of the image of its own.
        learned_image_embedding: False where `forward` is always given an image embedding.
        image_embedding_size: size E of an embedding that is given, such as 512 of BiomedCLIP; a linear layer brings
            another size than ``hidden_size``, the default, to that.
        use_checkpoint: whether to recompute the blocks in the backward pass and so trade time for memory.
        scan_backend: see `Mamba`.

    Raises:
        ValueError: naming the argument, its value and what is allowed.

    Example:
        >>> net = DiffMa(hidden_size=16, num_layers=2, image_size=8)
        >>> ct = torch.randn(2, 4, 8, 8)
        >>> net(torch.randn(2, 4, 8, 8), timesteps=torch.tensor([5, 900]), context=ct).shape
        torch.Size([2, 4, 8, 8])
    """

    presets: dict[str, dict] = {
        f"{name}/{patch}": {"num_layers": depth, "patch_size": patch, "hidden_size": 512}
        for name, depth in _DEPTHS.items()
        for patch in (2, 4, 7)
    } | {f"tiny/{patch}": {"num_layers": 4, "patch_size": patch, "hidden_size": 128} for patch in (2, 4)}

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 4,
        out_channels: int | None = None,
        context_channels: int | None = None,
        image_size: Sequence[int] | int = 28,
        patch_size: int = 2,
        hidden_size: int = 512,
        num_layers: int = 16,
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2,
        dt_rank: int | str = "auto",
        learn_sigma: bool = False,
        scan_order: str = "spiral",
        concat_context: bool = False,
        slice_position: bool = False,
        num_directions: int = 0,
        embedder: bool = True,
        learned_image_embedding: bool = True,
        image_embedding_size: int | None = None,
        use_checkpoint: bool = False,
        scan_backend: str | None = None,
    ) -> None:
        if spatial_dims != 2:
            raise ValueError(f"spatial_dims must be 2, got {spatial_dims}")
        if num_directions < 0:
            raise ValueError(f"num_directions must be at least 0, got {num_directions}")
        out_channels = in_channels if out_channels is None else out_channels
        context_channels = in_channels if context_channels is None else context_channels
        super().__init__(
            in_channels + context_channels * concat_context,
            out_channels * (1 + learn_sigma),
            image_size,
            patch_size,
            hidden_size,
            num_layers,
            scan_order,
            use_checkpoint,
            d_state=d_state,
            d_conv=d_conv,
            expand=expand,
            dt_rank=dt_rank,
            scan_backend=scan_backend,
        )
        self.in_channels, self.context_channels = in_channels, context_channels
        self.learn_sigma, self.concat_context, self.num_directions = learn_sigma, concat_context, num_directions
        self.position_embedder = SinusoidEmbedding(hidden_size) if slice_position else None
        self.direction_embedder = nn.Embedding(num_directions, hidden_size) if num_directions else None
        self.embedder = self.image_embedder = self.null_tokens = self.null_embedding = None
        if embedder:
            self.embedder = VisionEmbedder(context_channels, image_size, patch_size, hidden_size)
            self.null_tokens = nn.Parameter(torch.zeros(1, 1, hidden_size))
            self.null_embedding = nn.Parameter(torch.zeros(1, hidden_size))
            if learned_image_embedding:
                self.image_embedder = ContextEmbedding(context_channels, hidden_size)
        other_size = image_embedding_size not in (None, hidden_size)
        self.image_projection = nn.Linear(image_embedding_size, hidden_size) if other_size else None
        _start_at_zero(self.position_embedder and self.position_embedder.mlp[2], self.direction_embedder)

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> DiffMa:
        """
        Build a network of a named size.

        Args:
            name: a key of `presets`: a published size and its patch, such as ``"B/2"``, or ``"tiny/2"``, ``"tiny/4"``,
                which are for training without a GPU.
            overrides: arguments of the constructor that replace the preset's.

        Raises:
            ValueError: when there is no such preset.

        Example:
            >>> DiffMa.from_preset("tiny/2", in_channels=1).num_layers
            4
        """
        if name not in cls.presets:
            raise ValueError(f"preset must be one of {sorted(cls.presets)}, got {name!r}")
        return cls(**{**cls.presets[name], **overrides})

    @classmethod
    def from_released(cls, state_dict: Mapping[str, torch.Tensor], embedder: nn.Module | None = None) -> DiffMa:
        """
        Build the network that fits a published state dict and load it; all sizes follow from the shapes.

        Args:
            state_dict: names and shapes as published, see `load_released_checkpoint`.
            embedder: the `VisionEmbedder` that the network was trained with. Without one there is only `denoise`, until
                ``.embedder`` is set; with one, `forward` needs the image embedding.

        Raises:
            ValueError: when it is the state dict of something else; the message names what does not fit.

        Example:
            >>> sizes = {"hidden_size": 16, "num_layers": 2, "image_size": 8, "learn_sigma": True}
            >>> DiffMa.from_released(DiffMa(**sizes, embedder=False).state_dict()).out_channels
            8
        """
        network = cls(**released_arguments(state_dict))
        if (reason := state_dict_mismatch(network, state_dict)) is not None:
            raise ValueError(f"state_dict is not a published DiffMa's: {reason}")
        network.load_state_dict(dict(state_dict))
        network.embedder = embedder
        return network

    def forward(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor | None = None,
        context: torch.Tensor | None = None,
        image_embedding: torch.Tensor | None = None,
        position: torch.Tensor | None = None,
        direction: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Predict the noise in x.

        Args:
            x: noisy latents, (N, in_channels, H, W).
            timesteps: diffusion time, (N,) or (1,), integer or float; None: zeros.
            context: latents of the source images, (N, context_channels, H, W). A row of -1, or None for all rows: no
                condition.
            image_embedding: embedding of the source images, (N, image_embedding_size), such as `BiomedCLIPEmbedding`
                gives; None: the learned one.
            position: place of the slice in its volume, (N,) in [0, 1]; None: not known.
            direction: which translation, (N,) integer, below ``num_directions``; None: not known.

        Returns:
            (N, out_channels, H, W), with ``learn_sigma`` the prediction first, then what the variance is made of.

        Raises:
            ValueError: when shapes do not fit, or something is given or missing that the network was not built for.
        """
        if self.embedder is None:
            raise ValueError("this network has no vision embedder: set .embedder, or call .denoise with tokens")
        expect_shape("x", x, (x.shape[0], self.in_channels, *x.shape[2:]), x.ndim == 4)
        shape = (x.shape[0], self.context_channels, *x.shape[2:])
        context = x.new_full(shape, -1.0) if context is None else context.to(x.dtype)
        expect_shape("context", context, shape)
        null = (context == -1).flatten(1).all(dim=1)  # (N,)
        soft_mask, tokens = self.embedder(context)  # (N, T, 1), (N, T, D)
        null_tokens = 0.0 if self.null_tokens is None else self.null_tokens.to(tokens.dtype)
        soft_mask = torch.where(null[:, None, None], 0.5, soft_mask)
        tokens = torch.where(null[:, None, None], null_tokens, tokens)
        image_embedding = self._image_embedding(context, image_embedding)
        null_embedding = 0.0 if self.null_embedding is None else self.null_embedding.to(image_embedding.dtype)
        image_embedding = torch.where(null[:, None], null_embedding, image_embedding)
        time = self._time(x, timesteps, position, direction)
        given = torch.cat([x, context], dim=1) if self.concat_context else x
        return self._denoise(given, time, image_embedding, tokens, soft_mask)

    def __prepare_scriptable__(self) -> nn.Module:
        size = [self.patch_size * cells for cells in self.grid]  # position tables are of this size
        channels = (self.in_channels, self.context_channels)
        return ScriptableDenoiser(self, *(self.pos_embed.new_zeros(1, count, *size) for count in channels))

    def _image_embedding(self, context: torch.Tensor, given: torch.Tensor | None) -> torch.Tensor:
        """The embedding of the source that is given, or else the learned one, (N, D)."""
        if given is None:
            if self.image_embedder is None:
                raise ValueError("this network learned no image embedding: image_embedding (N, E) is needed")
            return self.image_embedder(context)
        size = self.hidden_size if self.image_projection is None else self.image_projection.in_features
        expect_shape("image_embedding", given, (context.shape[0], size))
        return given if self.image_projection is None else self.image_projection(given)

    def _time(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor | None,
        position: torch.Tensor | None,
        direction: torch.Tensor | None,
    ) -> torch.Tensor:
        """What modulates all blocks besides the source: time, place of the slice, direction; (N, D)."""
        time = self.t_embedder(expand_timesteps(timesteps, x))
        if position is not None:
            if self.position_embedder is None:
                raise ValueError("position was given, but the network has slice_position=False")
            time = time + self.position_embedder(_POSITION_SCALE * _for_each("position", position, x).float())
        if direction is not None:
            direction = _for_each("direction", direction, x).long()
            if self.direction_embedder is None:
                raise ValueError("direction was given, but the network has num_directions=0")
            in_a_graph = torch.jit.is_tracing() or torch.compiler.is_compiling()
            if not in_a_graph and bool(((direction < 0) | (direction >= self.num_directions)).any()):
                raise ValueError(f"direction must be in 0..{self.num_directions - 1}, got {direction.tolist()}")
            time = time + self.direction_embedder(direction)
        return time


def _start_at_zero(*layers: nn.Module | None) -> None:
    """Let the options that the network has start without an effect."""
    for layer in layers:
        for parameter in () if layer is None else layer.parameters():
            nn.init.zeros_(parameter)


def _for_each(name: str, values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """One number a sample of x."""
    values = torch.as_tensor(values, device=x.device).reshape(-1)
    if values.shape[0] not in (1, x.shape[0]):
        raise ValueError(f"{name} must be ({x.shape[0]},) or (1,), got {tuple(values.shape)}")
    return values.expand(x.shape[0])
