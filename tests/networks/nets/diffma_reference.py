"""
The published forward passes of DiffMa and its vision embedder, written out slowly.

Plain loops over a state dict: one sequence after the other is gathered, passes the whole of Mamba (projection in,
convolution, scan by definition, gate, projection out) and is put back, then added up. Shares nothing with the package
but the definition of the scan.
"""

from __future__ import annotations

import math

import torch

from monai_mamba_gen.ops import selective_scan_ref

HEADINGS = ["RDLU", "DLUR", "LURD", "URDL", "RULD", "LDRU", "DRUL", "ULDR"]
STEP = {"R": (0, 1), "D": (1, 0), "L": (0, -1), "U": (-1, 0)}


def silu(x: torch.Tensor) -> torch.Tensor:
    return x / (1 + torch.exp(-x))


def gather_tables(size: int, block: int) -> list[list[int]]:
    """By rows, and the two lists with which block number ``block`` gathers."""
    rank, (row, column), count, turn, length = {}, (size // 2, size // 2), 0, 0, 1
    while count < size * size:
        for _ in range(2):
            down, right = STEP[HEADINGS[block % 8][turn % 4]]
            for _ in range(length):
                if 0 <= row < size and 0 <= column < size:
                    rank[row, column] = count
                    count += 1
                row, column = row + down, column + right
            turn += 1
        length += 1
    cells = [(r, c) for r in range(size) for c in range(size)]
    forward = [rank[cell] for cell in cells]
    return [list(range(size * size)), forward, [size * size - 1 - each for each in forward]]


def linear(state: dict, name: str, x: torch.Tensor) -> torch.Tensor:
    y = x @ state[f"{name}.weight"].T
    return y + state[f"{name}.bias"] if f"{name}.bias" in state else y


def layer_norm(x: torch.Tensor, eps: float, weight=1.0, bias=0.0) -> torch.Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + eps).sqrt() * weight + bias


def mamba(state: dict, name: str, tokens: torch.Tensor, tables: list[list[int]] | None) -> torch.Tensor:
    """(N, L, C) -> (N, L, C)."""
    total = 0
    for table in tables or [list(range(tokens.shape[1]))]:
        x, z = linear(state, f"{name}.in_proj", tokens[:, table]).chunk(2, dim=-1)  # (N, L, E)
        kernel, bias = state[f"{name}.conv1d.weight"], state[f"{name}.conv1d.bias"]
        width, convolved = kernel.shape[-1], torch.empty_like(x)
        for t in range(x.shape[1]):
            convolved[:, t] = bias
            for i in range(width):
                if t - i >= 0:
                    convolved[:, t] += kernel[:, 0, width - 1 - i] * x[:, t - i]
        u = silu(convolved)
        rank, states = state[f"{name}.dt_proj.weight"].shape[1], state[f"{name}.A_log"].shape[1]
        dt, B, C = (u @ state[f"{name}.x_proj.weight"].T).split([rank, states, states], dim=-1)
        y = selective_scan_ref(
            u.transpose(1, 2),
            (dt @ state[f"{name}.dt_proj.weight"].T).transpose(1, 2),
            -state[f"{name}.A_log"].exp(),
            B.transpose(1, 2),
            C.transpose(1, 2),
            state[f"{name}.D"],
            delta_bias=state[f"{name}.dt_proj.bias"],
            delta_softplus=True,
        ).transpose(1, 2)
        out = linear(state, f"{name}.out_proj", y * silu(z))
        back = [table.index(cell) for cell in range(len(table))]
        total = total + out[:, back]
    return total


def block(state: dict, index: int, x, condition, soft_mask, tables) -> torch.Tensor:
    name = f"blocks.{index}"
    shift, scale, gate = linear(state, f"{name}.adaLN_modulation.1", silu(condition)).chunk(3, dim=1)
    h = layer_norm(x, 1e-5, state[f"{name}.norm1.weight"], state[f"{name}.norm1.bias"])
    h = h * (1 + scale[:, None]) + shift[:, None]
    plain = mamba(state, f"{name}.mamba1", h, tables)
    masked = mamba(state, f"{name}.mamba2", h * soft_mask, tables)
    attention = f"{name}.attention_network"
    both = torch.cat([plain, masked], dim=-1)
    both = layer_norm(both, 1e-5, state[f"{attention}.0.weight"], state[f"{attention}.0.bias"])
    weight = torch.sigmoid(linear(state, f"{attention}.3", silu(linear(state, f"{attention}.1", both))))
    return x + gate[:, None] * (weight * plain + (1 - weight) * masked)


def patches(image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Patch by patch, by rows: (N, T, D)."""
    side, tokens = weight.shape[-1], []
    for row in range(0, image.shape[2], side):
        for column in range(0, image.shape[3], side):
            patch = image[:, :, row : row + side, column : column + side].flatten(1)
            tokens.append(patch @ weight.flatten(1).T + bias)
    return torch.stack(tokens, dim=1)


def denoise(state: dict, x, timesteps, image_embedding, tokens, soft_mask) -> torch.Tensor:
    """The published forward pass of DiffMa; x (N, C, S, S)."""
    side = state["x_embedder.proj.weight"].shape[-1]
    size = x.shape[2] // side
    h = patches(x, state["x_embedder.proj.weight"], state["x_embedder.proj.bias"]) + state["pos_embed"]
    frequencies = torch.exp(-math.log(10000) * torch.arange(128.0) / 128)
    angles = timesteps[:, None].float() * frequencies  # rounded to single: a fifth digit at t = 877
    waves = torch.cat([angles.cos(), angles.sin()], dim=1).to(x.dtype)
    time = linear(state, "t_embedder.mlp.2", silu(linear(state, "t_embedder.mlp.0", waves)))
    condition = torch.cat([time + image_embedding, time + tokens.mean(dim=1)], dim=1)
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    outputs = []
    for index in range(depth):
        if index > depth / 2:
            h = outputs[-1] + outputs[depth - index - 1]
        h = block(state, index, h, condition, soft_mask, gather_tables(size, index))
        outputs.append(h)
    shift, scale = linear(state, "final_layer.adaLN_modulation.1", silu(condition)).chunk(2, dim=1)
    h = layer_norm(h, 1e-6) * (1 + scale[:, None]) + shift[:, None]
    h = linear(state, "final_layer.linear", h)  # (N, T, p * p * C)
    channels = h.shape[2] // side**2
    image = torch.empty(x.shape[0], channels, size * side, size * side, dtype=x.dtype)
    for token in range(size * size):
        row, column = side * (token // size), side * (token % size)
        for p in range(side):
            for q in range(side):
                start = (p * side + q) * channels
                image[:, :, row + p, column + q] = h[:, token, start : start + channels]
    return image


def embed(state: dict, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The published forward pass of the vision embedder."""
    tokens = patches(latent, state["vision_embedding.proj.weight"], state["vision_embedding.proj.bias"])
    logits = 0
    for values in (tokens.max(dim=2).values, tokens.mean(dim=2)):
        logits = logits + linear(state, "fc.2", linear(state, "fc.0", values).clamp(min=0))
    soft_mask = 1 / (1 + torch.exp(-logits[..., None]))
    return soft_mask, layer_norm(tokens * soft_mask, 1e-5, state["norm.weight"], state["norm.bias"])


def released_state(
    size=8, patch=2, depth=4, hidden=16, channels=4, out_channels=8, states=16, width=4, inner=None, seed=0
) -> dict:
    """A state dict with the published names and shapes and random values."""
    generator = torch.Generator().manual_seed(seed)
    inner, rank, context = inner or 2 * hidden, math.ceil(hidden / 16), 2 * hidden
    shapes = {"pos_embed": (1, (size // patch) ** 2, hidden)}
    shapes |= {"x_embedder.proj.weight": (hidden, channels, patch, patch), "x_embedder.proj.bias": (hidden,)}
    shapes |= {"t_embedder.mlp.0.weight": (hidden, 256), "t_embedder.mlp.0.bias": (hidden,)}
    shapes |= {"t_embedder.mlp.2.weight": (hidden, hidden), "t_embedder.mlp.2.bias": (hidden,)}
    for index in range(depth):
        name = f"blocks.{index}"
        shapes |= {f"{name}.norm1.weight": (hidden,), f"{name}.norm1.bias": (hidden,)}
        for each in ("mamba1", "mamba2"):
            shapes |= {f"{name}.{each}.A_log": (inner, states), f"{name}.{each}.D": (inner,)}
            shapes |= {f"{name}.{each}.in_proj.weight": (2 * inner, hidden)}
            shapes |= {f"{name}.{each}.conv1d.weight": (inner, 1, width), f"{name}.{each}.conv1d.bias": (inner,)}
            shapes |= {f"{name}.{each}.x_proj.weight": (rank + 2 * states, inner)}
            shapes |= {f"{name}.{each}.dt_proj.weight": (inner, rank), f"{name}.{each}.dt_proj.bias": (inner,)}
            shapes |= {f"{name}.{each}.out_proj.weight": (hidden, inner)}
        modulation, attention = f"{name}.adaLN_modulation.1", f"{name}.attention_network"
        shapes |= {f"{modulation}.weight": (3 * hidden, context), f"{modulation}.bias": (3 * hidden,)}
        shapes |= {f"{attention}.0.weight": (context,), f"{attention}.0.bias": (context,)}
        shapes |= {f"{attention}.1.weight": (hidden, context), f"{attention}.1.bias": (hidden,)}
        shapes |= {f"{attention}.3.weight": (1, hidden), f"{attention}.3.bias": (1,)}
    rows, modulation = patch**2 * out_channels, "final_layer.adaLN_modulation.1"
    shapes |= {"final_layer.linear.weight": (rows, hidden), "final_layer.linear.bias": (rows,)}
    shapes |= {f"{modulation}.weight": (2 * hidden, context), f"{modulation}.bias": (2 * hidden,)}
    return {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def released_embedder_state(size=8, patch=2, embed_dim=16, channels=4, units=None, seed=0) -> dict:
    """Likewise for the vision embedder."""
    generator, positions = torch.Generator().manual_seed(seed), (size // patch) ** 2
    units = units or max(positions // 14, 1)
    shapes = {
        "vision_embedding.mask_token": (1, 1, embed_dim),
        "vision_embedding.proj.weight": (embed_dim, channels, patch, patch),
        "vision_embedding.proj.bias": (embed_dim,),
        "fc.0.weight": (units, positions),
        "fc.0.bias": (units,),
        "fc.2.weight": (positions, units),
        "fc.2.bias": (positions,),
        "norm.weight": (embed_dim,),
        "norm.bias": (embed_dim,),
    }
    return {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
