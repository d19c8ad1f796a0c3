"""Reading data sets into slices, and phantom data to try everything without patients."""

from __future__ import annotations

from .acdc import acdc_datalist
from .acdc_cine import acdc_cine_datalist
from .cine_dataset import CineDataset
from .cine_files import cine_name, unfinished_cines, write_synthetic_cine
from .cine_geometry import crop_box, displacement_to_grid, restore_cine, warp_volume
from .cine_samples import CineSamples, cine_inputs
from .cine_timing import frame_interval
from .manifest import (
    append_manifest,
    finished_cines,
    finished_seeds,
    manifest_path,
    merge_manifest,
    read_manifest,
)
from .phantom import PHANTOM_GROUPS, cardiac_phantom
from .phantom_files import phantom_dataset_dir, write_acdc_phantom
from .reading import load_volume
from .seeds import SeedBatchSampler, SeedDataset, shard_batches
from .slices import SliceDataset
from .synthetic_files import read_provenance, synthetic_extension, write_synthetic_image

__all__ = [
    "CineDataset",
    "CineSamples",
    "PHANTOM_GROUPS",
    "SeedBatchSampler",
    "SeedDataset",
    "SliceDataset",
    "acdc_cine_datalist",
    "acdc_datalist",
    "append_manifest",
    "cardiac_phantom",
    "cine_inputs",
    "cine_name",
    "crop_box",
    "displacement_to_grid",
    "finished_cines",
    "finished_seeds",
    "frame_interval",
    "load_volume",
    "manifest_path",
    "merge_manifest",
    "phantom_dataset_dir",
    "read_manifest",
    "read_provenance",
    "restore_cine",
    "shard_batches",
    "synthetic_extension",
    "unfinished_cines",
    "warp_volume",
    "write_acdc_phantom",
    "write_synthetic_cine",
    "write_synthetic_image",
]
