"""The settings of one trial, validated: one module for each group of them."""

from decrop.config.black_box import EndpointSettings, SurrogateSettings
from decrop.config.certification import CertificationSettings, ExecutionSettings
from decrop.config.classifier import ClassifierSettings
from decrop.config.classifier_source import ClassifierArchitecture
from decrop.config.classifier_training import ClassifierObjective, ClassifierTrainingSettings
from decrop.config.data import DatasetName, DatasetSettings, LimitedDataSettings
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
    Probability,
    Seed,
    Settings,
    Side,
    Text,
    Word,
)
from decrop.config.synthesis import Attack, BoundarySettings, InterpolationSettings
from decrop.config.training import (
    AugmentationPolicy,
    AugmentationSettings,
    DiscriminatorSettings,
    DistillationSettings,
    KernelSettings,
    LossWeights,
    Mixing,
    Objective,
    Optimizer,
    TrainingSettings,
)
from decrop.config.trial import RecordedTrialConfig, TrialConfig, as_recorded

__all__ = [
    "Attack",
    "AugmentationPolicy",
    "AugmentationSettings",
    "BoundarySettings",
    "CertificationSettings",
    "ClassNames",
    "ClassifierArchitecture",
    "ClassifierObjective",
    "ClassifierSettings",
    "ClassifierTrainingSettings",
    "Count",
    "CountOrZero",
    "DatasetName",
    "DatasetSettings",
    "DenoiserContract",
    "DenoiserSettings",
    "DiscriminatorSettings",
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
    "Objective",
    "Optimizer",
    "Positive",
    "PriorSettings",
    "Probability",
    "RecordedTrialConfig",
    "Seed",
    "Settings",
    "Side",
    "SurrogateSettings",
    "Text",
    "TrainingSettings",
    "TrialConfig",
    "Word",
    "as_recorded",
]
