"""The settings of one trial: what a sweep samples, a run logs, a bundle carries and reproduces."""

from pydantic import Field

from decrop.config.certification import CertificationSettings, ExecutionSettings
from decrop.config.classifier import ClassifierSettings
from decrop.config.data import DatasetSettings, LimitedDataSettings
from decrop.config.denoiser import DenoiserSettings, PriorSettings
from decrop.config.settings import Positive, Settings
from decrop.config.synthesis import BoundarySettings, InterpolationSettings
from decrop.config.training import TrainingSettings


class TrialConfig(Settings):
    """Everything that determines one trial."""

    seed: int = Field(0, ge=0, description="Seed of synthesis, training and certification noise.")
    sigma: Positive = Field(
        0.25, description="Standard deviation of the Gaussian noise, in [0,1] pixels."
    )
    dataset: DatasetSettings = DatasetSettings()
    limited: LimitedDataSettings = LimitedDataSettings()
    classifier: ClassifierSettings = ClassifierSettings()
    boundary: BoundarySettings = BoundarySettings()
    interpolation: InterpolationSettings = InterpolationSettings()
    denoiser: DenoiserSettings = DenoiserSettings()
    prior: PriorSettings = PriorSettings()
    training: TrainingSettings = TrainingSettings()
    certification: CertificationSettings = CertificationSettings()
    execution: ExecutionSettings = ExecutionSettings()

    @property
    def trains_classifier(self) -> bool:
        """Whether the trial trains the classifier itself and no denoiser."""
        return self.denoiser.architecture == "none"

    @property
    def trains_again_for_test(self) -> bool:
        """Whether the held-out images are trained on too, once the trial is chosen for test."""
        training = self.classifier.training
        if not self.trains_classifier or training is None:
            return True
        return training.trained_on == "limited"
