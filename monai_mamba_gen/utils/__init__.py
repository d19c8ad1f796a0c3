"""Helpers without a home of their own; nothing here imports another part of the package."""

from __future__ import annotations

from .atomic_write import atomic_write, remove_leftovers
from .checkpoints import load_tensors, load_weights, state_dict_mismatch, trained_setting
from .distributed import (
    batch_size_per_process,
    destroy_process_group,
    gather_rows,
    get_rank,
    get_world_size,
    init_process_group,
    is_main_process,
    local_device,
)
from .errors import DataError, install_concise_errors, root_cause
from .film_strip import cine_pictures, film_strip, save_gif
from .first_stage import train_first_stage
from .freed_memory import keep_freed_memory
from .image_grid import SYNTHETIC_MARKS, image_grid, labelled_rows, save_png
from .optional import import_optional
from .plain_tensor import plain_tensor
from .released import load_released_checkpoint
from .safetensors_files import read_safetensors, write_safetensors
from .seeding import derive_seed, keyed_generator, per_sample_randn
from .stage_weights import load_latent_space, load_part
from .translation_picture import middle_slice, translation_picture
from .weights import file_sha256, state_dict_sha256, weights_sha256

__all__ = [
    "SYNTHETIC_MARKS",
    "DataError",
    "atomic_write",
    "batch_size_per_process",
    "cine_pictures",
    "derive_seed",
    "destroy_process_group",
    "file_sha256",
    "film_strip",
    "gather_rows",
    "get_rank",
    "get_world_size",
    "image_grid",
    "import_optional",
    "init_process_group",
    "install_concise_errors",
    "keep_freed_memory",
    "is_main_process",
    "keyed_generator",
    "labelled_rows",
    "load_released_checkpoint",
    "load_tensors",
    "load_weights",
    "local_device",
    "middle_slice",
    "plain_tensor",
    "per_sample_randn",
    "remove_leftovers",
    "root_cause",
    "save_gif",
    "save_png",
    "state_dict_sha256",
    "translation_picture",
    "read_safetensors",
    "weights_sha256",
    "write_safetensors",
    "state_dict_mismatch",
    "load_latent_space",
    "load_part",
    "train_first_stage",
    "trained_setting",
]
