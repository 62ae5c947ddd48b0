"""How many images a black box is asked about at most, before any is."""

from dataclasses import dataclass

from decrop.config import TrialConfig
from decrop.data.datasets import Dataset
from decrop.data.limited import limited_data
from decrop.errors import InputError

# To open an endpoint: one image, and one more where the protocol has to be found out.
OPENING = 2


@dataclass(frozen=True)
class TotalQueries:
    """The most that is asked of a black box.

    Attributes:
        source: what is asked.
        opening: images to find out what it answers.
        stealing: images for surrogates.
        certifying: images with noise, and those without, of all certifications.
        certifications: how many there are.
        budget: images that may be asked about in all; None for no bound.
        adaptive: whether images stop early, so that a certification may do with less.
    """

    source: str
    opening: int
    stealing: int
    certifying: int
    certifications: int
    budget: int | None
    adaptive: bool

    @property
    def most(self) -> int:
        """Images in all, if none stops early and no request has to be repeated."""
        return self.opening + self.stealing + self.certifying

    def sentence(self) -> str:
        """Say what is asked and what for."""
        parts = []
        if self.stealing:
            parts.append(f"{self.stealing:,} for the surrogate")
        if self.certifications:
            times = "once" if self.certifications == 1 else f"{self.certifications} times"
            parts.append(f"{self.certifying:,} to certify test images {times}")
        parts.append(f"{self.opening:,} to see what it answers")
        budget = "there is no budget" if self.budget is None else f"the budget is {self.budget:,}"
        text = (
            f"{self.source} is asked about at most {self.most:,} images: {', '.join(parts)}; "
            f"{budget}"
        )
        if self.budget is not None and self.most > self.budget:
            text += (
                ", which may not suffice: as a rule images stop early, and nothing is asked beyond "
                "it"
            )
        return text

    def check(self, *, spent: int = 0) -> None:
        """Refuse what cannot be kept within the budget.

        Args:
            spent: images that the budget has been spent on already, for other work.

        Raises:
            InputError: the budget does not suffice for the surrogate, or for certificates that take
                equally many draws of each image.
        """
        if self.budget is None:
            return
        least = self.opening + self.stealing + (0 if self.adaptive else self.certifying)
        if spent + least > self.budget:
            left = f", of which {spent:,} are spent" if spent else ""
            what = "the surrogate" if self.adaptive else "surrogate and fixed certificates"
            raise InputError(
                f"classifier.endpoint.query_budget {self.budget:,}{left}: {what} take {least:,} "
                "images; raise it, or lower classifier.surrogate.queries, "
                "certification.estimation_samples or certification.test_images."
            )


def total_queries(
    config: TrialConfig, dataset: Dataset, *, certifications: int, stealing: bool = True
) -> TotalQueries | None:
    """Plan the questions to a trial's black box; None where its classifier is none.

    Args:
        config: the trial's settings.
        dataset: whose test images are certified.
        certifications: on the test split, with and without a denoiser.
        stealing: whether a surrogate is stolen.
    """
    asked = config.classifier.asked
    if asked is None:
        return None
    certification = config.certification
    return TotalQueries(
        source=config.classifier.source,
        opening=OPENING,
        stealing=queries_of_stealing(config, dataset) if stealing else 0,
        certifying=certifications * queries_of_a_certification(config, dataset),
        certifications=certifications,
        budget=asked.query_budget,
        adaptive=certification.procedure == "adaptive",
    )


def queries_of_stealing(config: TrialConfig, dataset: Dataset) -> int:
    """Return how many images are asked about for the surrogate; 0 without one."""
    surrogate = config.classifier.surrogate
    if surrogate is None:
        return 0
    if surrogate.weights is None:
        return surrogate.queries
    return int(limited_data(dataset, config.limited).held_out_mask.sum())


def queries_of_a_certification(config: TrialConfig, dataset: Dataset) -> int:
    """Return the most images that one certification asks about: noisy ones, and each without."""
    certification = config.certification
    images = min(certification.test_images, len(dataset.test.labels))
    samples = certification.selection_samples + certification.most_estimation_samples
    return images * (samples + 1)
