"""
How near synthetic images are to the training images, beside how near held-out real images are.

    python tests/benchmarks/nearest_images.py --synthetic eval/synthetic --training D/train --held_out D/held_out

prints the table of docs/results.md, and with ``--picture pairs.png`` draws the synthetic images that are nearest to a
training image (above) and that training image (below). The picture shows real images.

Distance: root mean square difference of two images that were averaged down to ``--size`` pixels a side and brought to
mean 0 and standard deviation 1, so that brightness and contrast do not count. It finds copies of whole images. It does
not find a copied part, a mirrored or shifted image, and proves nothing about single persons.

- ``nearest training image``: smallest distance to any training image.
- ``below 1 %``: share of images nearer than the nearest one in a hundred of the held-out images. 1 % where synthetic
  images are no nearer to the training images than new real ones are.
- ``nearer to training``: share of synthetic images whose nearest image is a training image rather than a held-out one,
  among as many of either, mean and standard deviation over 20 draws of training images. 50 % where there is no
  preference. Images of one patient are alike, so the drawn ones must be of as few patients as the held-out ones: where
  these are runs of files in the order of their names, ``--blocks`` draws as many runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from monai_mamba_gen.data.image_folder import find_images
from monai_mamba_gen.utils import image_grid, save_png

DRAWS = 20


def read(folder: Path, size: int) -> torch.Tensor:
    """Return (N, size * size), each image of mean 0 and standard deviation 1."""
    paths = [path for path in find_images(folder) if path.name != "grid.png"]
    if not paths:
        raise SystemExit(f"{folder}: no images")
    images = [np.asarray(Image.open(p).convert("L").resize((size, size), Image.Resampling.BOX)) for p in paths]
    rows = torch.from_numpy(np.stack(images)).flatten(1).double()
    return (rows - rows.mean(1, keepdim=True)) / rows.std(1, unbiased=False, keepdim=True).clamp_min(1e-6)


def distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Root mean square differences, (len(a), len(b))."""
    return torch.cdist(a, b) / a.shape[1] ** 0.5


def draw(total: int, count: int, blocks: int | None, generator: torch.Generator) -> torch.Tensor:
    """Return ``count`` of ``total`` places, in runs of ``blocks`` where given; runs may overlap."""
    if blocks is None:
        return torch.randperm(total, generator=generator)[:count]
    length = -(-count // blocks)
    starts = torch.randint(total - length + 1, (blocks,), generator=generator)
    return (starts[:, None] + torch.arange(length)).flatten()


def preference(to_training: torch.Tensor, to_held_out: torch.Tensor, blocks: int | None) -> tuple[float, float]:
    """Share nearer to a training image than to a held-out one, among as many of either."""
    generator = torch.Generator().manual_seed(0)
    nearest = to_held_out.min(1).values
    shares = []
    for _ in range(DRAWS):
        drawn = draw(to_training.shape[1], to_held_out.shape[1], blocks, generator)
        shares.append((to_training[:, drawn].min(1).values < nearest).double().mean())
    return torch.stack(shares).mean().item(), torch.stack(shares).std().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    for name in ("synthetic", "training", "held_out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--blocks", type=int)
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    folders = {name: getattr(arguments, name) for name in ("synthetic", "training", "held_out")}
    images = {name: read(folder, arguments.size) for name, folder in folders.items()}
    to_training = {name: distances(images[name], images["training"]) for name in ("synthetic", "held_out")}
    nearest = {name: matrix.min(1) for name, matrix in to_training.items()}
    bound = nearest["held_out"].values.quantile(0.01)
    print(f"{arguments.size} px, " + ", ".join(f"{len(rows)} {name}" for name, rows in images.items()))
    print("| nearest training image | median | smallest | below 1 % |\n|---|---:|---:|---:|")
    for name, (values, _) in nearest.items():
        row = f"{values.median():.3f} | {values.min():.3f} | {(values < bound).double().mean():.1%}"
        print(f"| {name.replace('_', ' ')} | {row} |")
    to_held_out = distances(images["synthetic"], images["held_out"])
    mean, deviation = preference(to_training["synthetic"], to_held_out, arguments.blocks)
    print(f"\nnearer to training: {mean:.1%} (standard deviation {deviation:.1%})")
    if arguments.picture:
        chosen = nearest["synthetic"].values.argsort()[:8]
        pairs = torch.cat([images["synthetic"][chosen], images["training"][nearest["synthetic"].indices[chosen]]])
        tiles = pairs.float().reshape(-1, 1, arguments.size, arguments.size).transpose(2, 3)
        save_png(arguments.picture, image_grid(tiles, columns=8, value_range=(-2.0, 2.0)))


if __name__ == "__main__":
    main()
