"""Ignite handlers with ``attach(engine)``, for the handler lists of MONAI's engines."""

from __future__ import annotations

from .checkpoint_files import atomic_save, list_checkpoints
from .checkpoint_saver import AtomicCheckpointSaver
from .cine_report import CineReportHandler
from .cine_samples import CineSampleHandler
from .discriminator import DiscriminatorHandler
from .ema import EMA
from .fid import FIDHandler
from .gradient_clip import GradientClipHandler
from .history import HistoryHandler
from .initial_weights import InitialWeightsHandler
from .latent_scale import LatentScaleHandler
from .loss_curve import draw_loss_curve
from .non_finite_guard import NonFiniteGuard, describe_batch, first_non_finite
from .patient_picture import PatientPicture
from .reproducibility import ReproducibilityHandler
from .resume import ResumeHandler
from .sample_grid import SampleGridHandler
from .synthetic_cine_saver import SyntheticCineSaver
from .synthetic_saver import SyntheticImageSaver
from .synthetic_volume_saver import SyntheticVolumeSaver
from .training_picture import TrainingPicture
from .translation_report import TranslationReportHandler
from .translation_samples import TranslationSampleHandler

__all__ = [
    "EMA",
    "AtomicCheckpointSaver",
    "CineReportHandler",
    "CineSampleHandler",
    "FIDHandler",
    "GradientClipHandler",
    "HistoryHandler",
    "InitialWeightsHandler",
    "NonFiniteGuard",
    "PatientPicture",
    "ReproducibilityHandler",
    "ResumeHandler",
    "SampleGridHandler",
    "SyntheticCineSaver",
    "SyntheticImageSaver",
    "SyntheticVolumeSaver",
    "TrainingPicture",
    "TranslationReportHandler",
    "TranslationSampleHandler",
    "atomic_save",
    "describe_batch",
    "draw_loss_curve",
    "first_non_finite",
    "list_checkpoints",
    "DiscriminatorHandler",
    "LatentScaleHandler",
]
