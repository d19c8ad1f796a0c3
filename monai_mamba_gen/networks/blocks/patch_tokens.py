"""Images as patch tokens, where each token stands, and back to images."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["PatchHead", "PatchTokens", "position_table"]


def position_table(hidden_size: int, height: int, width: int) -> torch.Tensor:
    """
    Return the fixed 2D sine-cosine embedding of the cells of a grid.

    The first half of the channels encodes the column, the second half the row; each half holds the sines, then the
    cosines, of ``position / 10000 ** (k / (hidden_size / 4))``.

    Args:
        hidden_size: number of channels D, a multiple of 4.
        height: rows of the grid.
        width: columns of the grid.

    Returns:
        (1, height * width, D) float32.

    Raises:
        ValueError: when ``hidden_size`` is no multiple of 4.

    Example:
        >>> position_table(4, 1, 2)[0, 1].tolist() == [*torch.tensor([1.0]).sin(), *torch.tensor([1.0]).cos(), 0, 1]
        True
    """
    if hidden_size < 4 or hidden_size % 4:
        raise ValueError(f"hidden_size must be a multiple of 4, got {hidden_size}")
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    quarter = torch.arange(hidden_size // 4, dtype=torch.float64) / (hidden_size // 4)
    angles = [cells.reshape(-1, 1) / 10000**quarter for cells in (columns, rows)]  # (T, D / 4) each
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)[None].float()


class PatchTokens(nn.Module):
    """
    Cut an image into square patches and project each to a token.

    Args:
        in_channels: channels of the image.
        embed_dim: channels of a token.
        patch_size: side of a patch.

    Example:
        >>> PatchTokens(4, 16, patch_size=2)(torch.randn(1, 4, 6, 8)).shape
        torch.Size([1, 12, 16])
    """

    def __init__(self, in_channels: int, embed_dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (N, C, H, W), sides multiples of the patch -> (N, T, E), the patches by rows."""
        return self.proj(x).flatten(2).transpose(1, 2)


class PatchHead(nn.Module):
    """
    Modulated normalisation of tokens and projection back to the pixels of their patches.

    Args:
        hidden_size: channels D of the tokens.
        context_size: size of the condition vector.
        patch_size: side of a patch.
        out_channels: channels of the image.

    Example:
        >>> head = PatchHead(8, 16, patch_size=2, out_channels=1)
        >>> head(torch.randn(1, 6, 8), torch.randn(1, 16), (2, 3)).shape
        torch.Size([1, 1, 4, 6])
    """

    def __init__(self, hidden_size: int, context_size: int, patch_size: int, out_channels: int) -> None:
        super().__init__()
        self.patch_size, self.out_channels = patch_size, out_channels
        self.norm_final = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(hidden_size, patch_size**2 * out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(context_size, 2 * hidden_size))
        for layer in (self.linear, self.adaLN_modulation[1]):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor, condition: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """x (N, T, D), condition (N, context_size), grid (h, w) with h * w = T -> (N, C, h * patch, w * patch)."""
        shift, scale = self.adaLN_modulation(condition)[:, None].chunk(2, dim=-1)  # (N, 1, D) each
        patches = self.linear(self.norm_final(x) * (1 + scale) + shift)  # (N, T, p * p * C)
        side = self.patch_size
        cells = patches.reshape(x.shape[0], *grid, side, side, self.out_channels)
        image = cells.permute(0, 5, 1, 3, 2, 4)  # (N, C, h, p, w, p)
        return image.reshape(x.shape[0], self.out_channels, grid[0] * side, grid[1] * side)
