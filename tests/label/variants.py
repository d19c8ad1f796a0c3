"""
Not a test: draws what a real MONAI Label server answers at several strengths, with trained weights.

    python tests/label/variants.py --bundle NAME --models DIR --images a.nii.gz b.nii.gz --picture variants.png

DIR holds ``model.pt`` and the ``model.json`` that training wrote beside it. Images are of one size. Each row shows an
image and its variants, two seeds for each strength.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
from cases import CASES, Request
from PIL import Image, ImageDraw
from serve import ROOT, answer, download_app, read, server

from monai_mamba_gen.utils import SYNTHETIC_MARKS, save_png

COLUMNS = [(strength, seed) for strength in (0.2, 0.5, 0.9) for seed in (0, 1)]
HEADER, GAP, SCALE = 14, 2, 1


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw variants that a MONAI Label server makes.")
    parser.add_argument("--bundle", choices=list(CASES), default="acdc_slices_vm_ddpm_synthesis")
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--images", type=Path, nargs="+", required=True)
    parser.add_argument("--picture", type=Path, required=True)
    arguments = parser.parse_args()
    case = CASES[arguments.bundle]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        app, studies = download_app(folder), folder / "studies"
        root = app / "model" / case.bundle
        shutil.copytree(ROOT / "bundles" / case.bundle, root, ignore=shutil.ignore_patterns("models", "eval"))
        (root / "models").mkdir()
        for name in ("model.pt", "model.json"):
            shutil.copy(arguments.models / name, root / "models")
        studies.mkdir()
        rows = []
        with server(app, case, studies, folder / "server.log") as address:
            for path in arguments.images:
                shutil.copy(path, studies)
                row = [read(path)[0].squeeze()]
                for strength, seed in COLUMNS:
                    made = folder / f"made{len(row)}.nii.gz"
                    request = Request(path.name, {"strength": strength, "seed": seed}, upload=True)
                    answer(address, case, studies, request, made).raise_for_status()
                    row.append(read(made)[0].squeeze())
                rows.append(row)
    save_png(arguments.picture, draw(rows), SYNTHETIC_MARKS)


def draw(rows: list[list[np.ndarray]]) -> np.ndarray:
    """Return the picture: names of the columns above, each row in the grey scale of its image."""
    width, height = (side * SCALE + GAP for side in rows[0][0].shape)
    canvas = Image.new("L", (width * len(rows[0]) - GAP, HEADER + height * len(rows) - GAP), 255)
    names = ["real image", *(f"strength {strength}, seed {seed}" for strength, seed in COLUMNS)]
    for column, name in enumerate(names):
        ImageDraw.Draw(canvas).text((column * width + 2, 1), name, fill=0)
    for number, row in enumerate(rows):
        low, high = np.percentile(row[0], [0.5, 99.5])
        for column, values in enumerate(row):
            grey = (np.clip((values - low) / (high - low), 0, 1) * 255).round().astype(np.uint8)
            tile = Image.fromarray(grey.T).resize((width - GAP, height - GAP), Image.Resampling.BILINEAR)
            canvas.paste(tile, (column * width, HEADER + number * height))
    return np.asarray(canvas)


if __name__ == "__main__":
    main()
