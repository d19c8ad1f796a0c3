"""The Vision Embedder of DiffMa: which tokens of the source image matter, and the tokens themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from ...utils import state_dict_mismatch
from ..blocks import PatchTokens, pad_to_multiple

__all__ = ["VisionEmbedder"]


class _MaskableTokens(PatchTokens):
    """Patch tokens with the mask token of the published checkpoints, which no forward pass uses."""

    def __init__(self, in_channels: int, embed_dim: int, patch_size: int) -> None:
        super().__init__(in_channels, embed_dim, patch_size)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, embed_dim), requires_grad=False)


class VisionEmbedder(nn.Module):
    """
    Soft mask and tokens of a source image, such as the latent of a CT slice.

    DiffMa (Wang et al. 2024). The image is cut into T patches; the largest and the mean channel of every token pass one
    perceptron over the T positions, and the sigmoid of their sum is the soft mask, one weight a token. The tokens times
    their weights are normalised. Parameter names are those of the published checkpoints. On other grids than the one it
    was built for, the maps over positions are resampled to that grid and back, bilinearly; sides that are no multiple
    of the patch are padded by repeating the border.

    Args:
        in_channels: channels of the image.
        image_size: rows and columns the perceptron is built for, one number for both or one each.
        patch_size: side of a patch.
        embed_dim: channels E of a token.
        reduction: the perceptron's hidden layer has ``T / reduction`` units, at least one.

    Raises:
        ValueError: naming the argument, its value and what is allowed.

    Example:
        >>> soft_mask, tokens = VisionEmbedder(image_size=8, embed_dim=16)(torch.randn(2, 4, 8, 8))
        >>> soft_mask.shape, tokens.shape
        (torch.Size([2, 16, 1]), torch.Size([2, 16, 16]))
    """

    def __init__(
        self,
        in_channels: int = 4,
        image_size: Sequence[int] | int = 28,
        patch_size: int = 2,
        embed_dim: int = 512,
        reduction: float = 14,
    ) -> None:
        super().__init__()
        sizes = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if len(sizes) != 2 or min(sizes) < 1:
            raise ValueError(f"image_size must be one or two positive numbers, got {image_size}")
        for name, value in {"in_channels": in_channels, "patch_size": patch_size, "embed_dim": embed_dim}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if reduction < 1:
            raise ValueError(f"reduction must be at least 1, got {reduction}")
        self.in_channels, self.patch_size, self.embed_dim = in_channels, patch_size, embed_dim
        self.grid = tuple(-(-size // patch_size) for size in sizes)
        positions = self.grid[0] * self.grid[1]
        hidden = max(int(positions / reduction + 1e-9), 1)
        self.vision_embedding = _MaskableTokens(in_channels, embed_dim, patch_size)
        self.fc = nn.Sequential(nn.Linear(positions, hidden), nn.ReLU(), nn.Linear(hidden, positions))
        self.norm = nn.LayerNorm(embed_dim)

    @classmethod
    def from_released(cls, state_dict: Mapping[str, torch.Tensor]) -> VisionEmbedder:
        """
        Build the embedder that fits a published state dict and load it.

        Args:
            state_dict: names and shapes as published, see `load_released_checkpoint`; the grid is square.

        Raises:
            ValueError: when it is the state dict of something else; the message names what does not fit.

        Example:
            >>> other = VisionEmbedder(image_size=12, embed_dim=8)
            >>> VisionEmbedder.from_released(other.state_dict()).grid
            (6, 6)
        """
        projection, hidden = (state_dict.get(key) for key in ("vision_embedding.proj.weight", "fc.0.weight"))
        if projection is None or hidden is None:
            raise ValueError("state_dict must be a published vision embedder's, with vision_embedding.proj and fc.0")
        embed_dim, in_channels, patch_size = projection.shape[:3]
        units, positions = hidden.shape
        embedder = cls(in_channels, patch_size * math.isqrt(positions), patch_size, embed_dim, positions / units)
        if (reason := state_dict_mismatch(embedder, state_dict)) is not None:
            raise ValueError(f"state_dict is not a published vision embedder's: {reason}")
        embedder.load_state_dict(dict(state_dict))
        return embedder

    def forward(self, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            latent: source image (N, in_channels, H, W).

        Returns:
            the soft mask (N, T, 1), between 0 and 1, and the tokens (N, T, E), T = ceil(H / patch) * ceil(W / patch),
            by rows.

        Raises:
            ValueError: when the shape does not fit.
        """
        if latent.ndim != 4 or latent.shape[1] != self.in_channels:
            raise ValueError(f"latent must be (N, {self.in_channels}, H, W), got {tuple(latent.shape)}")
        latent = pad_to_multiple(latent, self.patch_size)
        grid = tuple(int(size) // self.patch_size for size in latent.shape[2:])
        tokens = self.vision_embedding(latent)  # (N, T, E)
        weights = self._positions(tokens.amax(dim=-1), grid) + self._positions(tokens.mean(dim=-1), grid)
        soft_mask = torch.sigmoid(weights)[..., None]  # (N, T, 1)
        return soft_mask, self.norm(tokens * soft_mask)

    def _positions(self, values: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
        """Pass one value a position, (N, T), through the perceptron, by way of the grid it was built for."""
        if grid == self.grid:
            return self.fc(values)
        there = _resample(values.unflatten(1, grid), self.grid)
        return _resample(self.fc(there.flatten(1)).unflatten(1, self.grid), grid).flatten(1)


def _resample(maps: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
    """(N, h, w) -> (N, *grid)."""
    return F.interpolate(maps[:, None], size=grid, mode="bilinear", align_corners=False)[:, 0]
