"""Reading data sets into slices, and phantom data to try everything without patients."""

from __future__ import annotations

from .acdc import acdc_datalist
from .manifest import append_manifest, finished_seeds, manifest_path, merge_manifest, read_manifest
from .phantom import PHANTOM_GROUPS, cardiac_phantom
from .phantom_files import phantom_dataset_dir, write_acdc_phantom
from .reading import load_volume
from .seeds import SeedBatchSampler, SeedDataset, shard_batches
from .slices import SliceDataset
from .synthetic_files import read_provenance, synthetic_extension, write_synthetic_image

__all__ = [
    "PHANTOM_GROUPS",
    "SeedBatchSampler",
    "SeedDataset",
    "SliceDataset",
    "acdc_datalist",
    "append_manifest",
    "cardiac_phantom",
    "finished_seeds",
    "load_volume",
    "manifest_path",
    "merge_manifest",
    "phantom_dataset_dir",
    "read_manifest",
    "read_provenance",
    "shard_batches",
    "synthetic_extension",
    "write_acdc_phantom",
    "write_synthetic_image",
]
