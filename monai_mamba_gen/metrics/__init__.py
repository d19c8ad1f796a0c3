"""Measures of how near a set of synthetic images is to a set of real ones, and feature networks to take them on."""

from __future__ import annotations

from .collector import FeatureCollector
from .diversity import MultiScaleSSIMDiversity, ms_ssim_diversity
from .efficientnet_lite0 import EfficientNetLite0, EfficientNetLite0Features
from .feature_set import FeatureSet
from .features import FeatureExtractor, ModuleFeatures, RandomConvFeatures, extract_features
from .frechet import frechet_distance, gaussian_frechet_distance, sample_size_warnings
from .images import content_hash, from_eight_bit, image_keys, load_images, to_eight_bit
from .inception import InceptionV3Features, TorchFidelityFeatures
from .inception_v3 import InceptionV3
from .kernel_distance import KernelDistance, kernel_distance
from .moments import FeatureMoments
from .report import build_report, compare_sets

__all__ = [
    "EfficientNetLite0",
    "EfficientNetLite0Features",
    "FeatureCollector",
    "FeatureExtractor",
    "FeatureMoments",
    "FeatureSet",
    "InceptionV3",
    "InceptionV3Features",
    "KernelDistance",
    "ModuleFeatures",
    "MultiScaleSSIMDiversity",
    "RandomConvFeatures",
    "TorchFidelityFeatures",
    "build_report",
    "compare_sets",
    "content_hash",
    "extract_features",
    "frechet_distance",
    "from_eight_bit",
    "gaussian_frechet_distance",
    "image_keys",
    "kernel_distance",
    "load_images",
    "ms_ssim_diversity",
    "sample_size_warnings",
    "to_eight_bit",
]
