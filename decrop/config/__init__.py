"""The settings of one trial, validated: one module for each group of them."""

from decrop.config.black_box import EndpointSettings, SurrogateSettings
from decrop.config.certification import CertificationSettings, ExecutionSettings
from decrop.config.classifier import ClassifierSettings
from decrop.config.classifier_source import ClassifierArchitecture
from decrop.config.classifier_training import ClassifierTrainingSettings
from decrop.config.data import DatasetSettings, LimitedDataSettings
from decrop.config.denoiser import DenoiserContract, DenoiserSettings
from decrop.config.prior import PriorSettings
from decrop.config.settings import (
    ClassNames,
    Count,
    CountOrZero,
    FreeMapping,
    LongText,
    NonNegative,
    Number,
    Positive,
    Seed,
    Settings,
    Side,
    Text,
    Word,
)
from decrop.config.synthesis import BoundarySettings, InterpolationSettings
from decrop.config.training import (
    AugmentationPolicy,
    AugmentationSettings,
    DistillationSettings,
    KernelSettings,
    LossWeights,
    Mixing,
    TrainingSettings,
)
from decrop.config.trial import TrialConfig

__all__ = [
    "AugmentationPolicy",
    "AugmentationSettings",
    "BoundarySettings",
    "CertificationSettings",
    "ClassNames",
    "ClassifierArchitecture",
    "ClassifierSettings",
    "ClassifierTrainingSettings",
    "Count",
    "CountOrZero",
    "DatasetSettings",
    "DenoiserContract",
    "DenoiserSettings",
    "DistillationSettings",
    "EndpointSettings",
    "ExecutionSettings",
    "FreeMapping",
    "InterpolationSettings",
    "KernelSettings",
    "LimitedDataSettings",
    "LongText",
    "LossWeights",
    "Mixing",
    "NonNegative",
    "Number",
    "Positive",
    "PriorSettings",
    "Seed",
    "Settings",
    "Side",
    "SurrogateSettings",
    "Text",
    "TrainingSettings",
    "TrialConfig",
    "Word",
]
