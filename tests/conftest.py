"""What all tests share."""

from __future__ import annotations

import locale
import os
from collections.abc import Callable
from pathlib import Path

# Two workers of pytest-xdist share two cores; this holds for the processes that tests start, too.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; tests that ask for it are skipped where there is none."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no folder shared/data beside the checkout")
    return SHARED_DATA


@pytest.fixture(scope="session")
def write_dicom_series() -> Callable[..., Path]:
    """A function that writes a CT (X, Y, Z) in HU with a NIfTI affine as one DICOM file a slice, into a new folder."""
    itk = pytest.importorskip("itk", reason="itk is not installed")

    def write(folder: Path, volume: np.ndarray, affine: np.ndarray, series: int = 1) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # DICOM's world runs to left, back and head
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        direction = affine[:3, :3] / spacing
        study = "1.2.826.0.1.3680043.8.498.1"
        for number in range(volume.shape[2]):
            image = itk.image_from_array(np.ascontiguousarray(volume[:, :, number].T[None].astype(np.int16)))
            origin = affine[:3, :3] @ [0, 0, number] + affine[:3, 3]
            image.SetSpacing(spacing.tolist())
            image.SetOrigin(origin.tolist())
            image.SetDirection(direction)
            tags = {
                "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
                "0008|0060": "CT",
                "0020|000d": study,
                "0020|000e": f"{study}.{series}",
                "0020|0013": str(number + 1),
                "0020|0032": "\\".join(f"{axis:.6f}" for axis in origin),
                "0020|0037": "\\".join(f"{axis:.8f}" for axis in direction[:, :2].T.flatten()),
            }
            for tag, value in tags.items():
                image.GetMetaDataDictionary()[tag] = value
            writer = itk.GDCMImageIO.New()
            writer.KeepOriginalUIDOn()
            before = locale.setlocale(locale.LC_ALL)
            # names in another order than the slices
            itk.imwrite(image, str(folder / f"{series}_{volume.shape[2] - number:03d}.dcm"), imageio=writer)
            locale.setlocale(locale.LC_ALL, before)  # GDCM leaves "C" behind, in which no UTF-8 is read any more
        return folder

    return write
