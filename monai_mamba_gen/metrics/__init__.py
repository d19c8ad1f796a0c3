"""Measures of how near a set of synthetic images is to a set of real ones, and feature networks to take them on."""

from __future__ import annotations

from .cine_frames import beat_difference, frame_scores, ssim_window, temporal_smoothness
from .cine_motion import (
    ACDC_STRUCTURES,
    dice_scores,
    ejection_fraction,
    jacobian_determinant,
    non_positive_jacobian,
    structure_volumes,
)
from .cine_report import CINE_FIGURES, build_cine_report, cine_csv, cine_table, seed_spread
from .collector import FeatureCollector
from .diversity import MultiScaleSSIMDiversity, ms_ssim_diversity
from .efficientnet_lite0 import EfficientNetLite0, EfficientNetLite0Features
from .feature_set import FeatureSet
from .features import FeatureExtractor, ModuleFeatures, RandomConvFeatures, extract_features
from .frechet import frechet_distance, gaussian_frechet_distance, sample_size_warnings
from .images import content_hash, from_eight_bit, image_batches, image_keys, load_images, to_eight_bit
from .inception import InceptionV3Features, TorchFidelityFeatures
from .inception_v3 import InceptionV3
from .indexed_loss import IndexedMeanLoss
from .indexed_pairs import IndexedPairLoss
from .kernel_distance import KernelDistance, kernel_distance
from .moments import FeatureMoments
from .report import build_report, compare_sets
from .tables import figure_table, rows_csv, summarise
from .translation import translation_scores
from .translation_report import TRANSLATION_FIGURES, build_translation_report, translation_table

__all__ = [
    "ACDC_STRUCTURES",
    "CINE_FIGURES",
    "EfficientNetLite0",
    "EfficientNetLite0Features",
    "FeatureCollector",
    "FeatureExtractor",
    "FeatureMoments",
    "FeatureSet",
    "InceptionV3",
    "InceptionV3Features",
    "IndexedMeanLoss",
    "IndexedPairLoss",
    "KernelDistance",
    "ModuleFeatures",
    "MultiScaleSSIMDiversity",
    "RandomConvFeatures",
    "TRANSLATION_FIGURES",
    "TorchFidelityFeatures",
    "beat_difference",
    "build_cine_report",
    "build_report",
    "build_translation_report",
    "cine_csv",
    "cine_table",
    "compare_sets",
    "content_hash",
    "dice_scores",
    "ejection_fraction",
    "extract_features",
    "figure_table",
    "frame_scores",
    "frechet_distance",
    "from_eight_bit",
    "gaussian_frechet_distance",
    "image_batches",
    "image_keys",
    "jacobian_determinant",
    "kernel_distance",
    "load_images",
    "ms_ssim_diversity",
    "non_positive_jacobian",
    "rows_csv",
    "sample_size_warnings",
    "seed_spread",
    "ssim_window",
    "structure_volumes",
    "summarise",
    "temporal_smoothness",
    "to_eight_bit",
    "translation_scores",
    "translation_table",
]
