"""The settings of one trial: what a sweep samples, a run logs, a bundle carries and reproduces."""

import math
from collections.abc import Collection
from typing import Literal, Self

from pydantic import Field, model_validator

from decrop.config.certification import (
    CertificationSettings,
    ExecutionSettings,
    least_samples,
)
from decrop.config.classifier import ClassifierSettings
from decrop.config.data import DatasetSettings, LimitedDataSettings
from decrop.config.denoiser import DenoiserSettings
from decrop.config.prior import PriorSettings
from decrop.config.settings import Seed, Settings, Sigma
from decrop.config.synthesis import BoundarySettings, InterpolationSettings
from decrop.config.training import TrainingSettings

Part = Literal["denoiser", "classifier"]


class TrialConfig(Settings):
    """Everything that determines one trial."""

    seed: Seed = Field(0, description="Seed of synthesis, training and certification noise.")
    sigma: Sigma = Field(
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

    @model_validator(mode="after")
    def _chunks_go_whole(self) -> Self:
        endpoint = self.classifier.asked
        if endpoint is not None and self.execution.chunk_size > endpoint.batch_size:
            raise ValueError(
                f"execution.chunk_size ({self.execution.chunk_size}) must be at most "
                f"classifier.endpoint.batch_size ({endpoint.batch_size}): answers are kept by "
                "chunks, so each goes in one request"
            )
        return self

    @model_validator(mode="after")
    def _logits_to_average(self) -> Self:
        if self.denoiser.mirrored and self.classifier.asked is not None:
            raise ValueError(
                "denoiser.mirrored averages logits of two images, and an endpoint is asked about "
                "one; drop it, or give a classifier that runs here"
            )
        return self

    @model_validator(mode="after")
    def _a_radius_in_reach(self) -> Self:
        settings = self.certification
        positive = [radius for radius in settings.radii if radius > 0]
        smallest = min(settings.radius_step, *positive, math.inf)
        sigma = self.certified_sigmas[0]
        reach = sigma * settings.reach
        if settings.procedure == "adaptive" and positive and reach < smallest:
            name = "sigma" if sigma == self.sigma else "one of certification.sigmas"
            raise ValueError(
                f"{name} ({sigma:g}) is so small that with certification.max_samples "
                f"({settings.max_samples}) no radius above 0 can be certified: where all samples "
                f"agree {reach:.2g} is, and the smallest that is tested is {smallest:g}; give a "
                "larger sigma, more samples or a smaller certification.radius_step"
            )
        return self

    @model_validator(mode="after")
    def _enough_for_an_envelope(self) -> Self:
        settings, sigmas = self.certification, self.certified_sigmas
        least = least_samples(settings.failure_probability / len(sigmas))
        if settings.most_estimation_samples < least:
            raise ValueError(
                f"certification.sigmas: at {len(sigmas)} sigmas the envelope has failure "
                f"probability {settings.failure_probability:g} / {len(sigmas)} at each, for which "
                f"an image needs at least {least} estimation samples, not "
                f"{settings.most_estimation_samples}"
            )
        return self

    @property
    def certified_sigmas(self) -> tuple[float, ...]:
        """Standard deviations that test images are certified at, increasing, `sigma` too."""
        return tuple(sorted({self.sigma, *self.certification.sigmas}))

    def at_sigma(self, sigma: float) -> "TrialConfig":
        """Return the settings of a certification at one standard deviation alone."""
        certification = self.certification.at_one_sigma()
        return self.model_copy(update={"sigma": sigma, "certification": certification})

    def without_budget(self) -> "TrialConfig":
        """Return the settings but for the budget of queries, which may be raised to go on."""
        endpoint = self.classifier.endpoint
        if endpoint is None:
            return self
        endpoint = endpoint.model_copy(update={"query_budget": None})
        classifier = self.classifier.model_copy(update={"endpoint": endpoint})
        return self.model_copy(update={"classifier": classifier})

    @property
    def trains(self) -> Part:
        """The kind of trial: what it trains."""
        return "classifier" if self.denoiser.source == "none" else "denoiser"

    @property
    def pretrains_classifier(self) -> bool:
        """Whether the classifier is trained before it, for a denoiser to stand in front of."""
        return self.classifier.training is not None and self.trains == "denoiser"

    @property
    def pretrains_denoiser(self) -> bool:
        """Whether the denoiser's training begins with a prior."""
        return self.prior.kind != "none" and self.trains == "denoiser"

    @property
    def trains_again_for_test(self) -> bool:
        """Whether the held-out images are trained on too, once the trial is chosen for test."""
        training = self.classifier.training
        return self.trains == "denoiser" or training is None or training.trained_on == "limited"


# Paths of settings and of whole groups. A search over one of them would be rewarded for a weaker
# guarantee, easier images or a luckier measurement.
MEASURING = (
    "sigma",
    "dataset",
    "limited",
    "certification",
    # Held-out scores are through the surrogate.
    "classifier.surrogate",
    "classifier.endpoint",
    "execution.device",
    "execution.precision",
    "execution.layout",
    "execution.chunk_size",
    "execution.chunks_per_batch",
)
# Of those, what figures vary whose rows are certified on the same test images.
VARIED_BY_TABLES = (
    "sigma",
    "limited",
    "classifier.surrogate",
    "classifier.endpoint",
    "execution.precision",
)


def measures(path: str, settings: Collection[str] = MEASURING) -> bool:
    """Return whether a dotted path is one of `settings` or lies in one of their groups."""
    return any(path == name or path.startswith(f"{name}.") for name in settings)
