"""Reading data sets into slices, and phantom data to try everything without patients."""

from __future__ import annotations

from .acdc import acdc_datalist
from .acdc_cine import acdc_cine_datalist
from .brats import BRATS_MODALITIES, brats_datalist
from .brats_phantom import brats_phantom, phantom_brats_dir, write_brats_phantom
from .chest_phantom import CHEST_FINDINGS, chest_phantom
from .chestxray14 import chestxray14_datalist
from .chestxray14_phantom import phantom_chestxray14_dir, write_chestxray14_phantom
from .cine_dataset import CineDataset
from .cine_files import cine_name, unfinished_cines, write_synthetic_cine
from .cine_geometry import crop_box, displacement_to_grid, restore_cine, warp_volume
from .cine_samples import CineSamples, cine_inputs
from .cine_timing import frame_interval
from .ct_mr_phantom import PHANTOM_REGIONS, ct_mr_phantom
from .image_folder import image_folder_datalist
from .manifest import (
    append_manifest,
    finished_cines,
    finished_seeds,
    iterate_manifest,
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
from .synthetic_folder_dataset import SyntheticFolderDataset
from .synthrad import ct_inputs, synthrad_datalist
from .synthrad_phantom import synthrad_phantom_dir, write_synthrad_phantom
from .volume_dataset import VolumeDataset
from .volume_files import unfinished_volumes, volume_name, write_synthetic_volume

__all__ = [
    "BRATS_MODALITIES",
    "CHEST_FINDINGS",
    "CineDataset",
    "CineSamples",
    "PHANTOM_GROUPS",
    "PHANTOM_REGIONS",
    "SeedBatchSampler",
    "SeedDataset",
    "SliceDataset",
    "SyntheticFolderDataset",
    "acdc_cine_datalist",
    "acdc_datalist",
    "append_manifest",
    "brats_datalist",
    "brats_phantom",
    "cardiac_phantom",
    "chest_phantom",
    "chestxray14_datalist",
    "cine_inputs",
    "cine_name",
    "crop_box",
    "ct_inputs",
    "ct_mr_phantom",
    "displacement_to_grid",
    "finished_cines",
    "finished_seeds",
    "frame_interval",
    "iterate_manifest",
    "image_folder_datalist",
    "load_volume",
    "manifest_path",
    "merge_manifest",
    "phantom_brats_dir",
    "phantom_chestxray14_dir",
    "phantom_dataset_dir",
    "read_manifest",
    "read_provenance",
    "restore_cine",
    "shard_batches",
    "synthetic_extension",
    "synthrad_datalist",
    "synthrad_phantom_dir",
    "unfinished_cines",
    "unfinished_volumes",
    "volume_name",
    "warp_volume",
    "write_acdc_phantom",
    "write_brats_phantom",
    "write_chestxray14_phantom",
    "write_synthetic_cine",
    "write_synthrad_phantom",
    "write_synthetic_image",
    "write_synthetic_volume",
    "VolumeDataset",
]
