"""What MONAI's engines need for diffusion training that gives the same numbers on any number of processes."""

from __future__ import annotations

from .autoencoder_prepare_batch import AutoencoderPrepareBatch
from .cine_inference_batch import CineInferenceBatch
from .cine_prepare_batch import CinePrepareBatch
from .contrastive_prepare_batch import ContrastivePrepareBatch
from .prepare_batch import SeededDiffusionPrepareBatch
from .trainable import trainable
from .translation_inference_batch import TranslationInferenceBatch
from .translation_prepare_batch import TranslationPrepareBatch

__all__ = [
    "AutoencoderPrepareBatch",
    "CineInferenceBatch",
    "CinePrepareBatch",
    "ContrastivePrepareBatch",
    "SeededDiffusionPrepareBatch",
    "TranslationInferenceBatch",
    "TranslationPrepareBatch",
    "trainable",
]
