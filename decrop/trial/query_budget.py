"""Query budget: the most images that a black box is asked about, before any is."""

from collections.abc import Sequence
from dataclasses import dataclass

from decrop.errors import InputError
from decrop.trial.inputs import PreparedTrial
from decrop.wording import counted, times

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
            parts.append(f"{self.certifying:,} to certify test images {times(self.certifications)}")
        parts.append(f"{self.opening:,} to see what it answers")
        budget = "there is no budget" if self.budget is None else f"the budget is {self.budget:,}"
        text = (
            f"{self.source} is asked about at most {counted(self.most, 'image')}: "
            f"{', '.join(parts)}; {budget}"
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


def total_queries(trial: PreparedTrial, *, certifications: int) -> TotalQueries | None:
    """Plan the questions to a trial's black box; None where its classifier is none.

    Args:
        certifications: on the test split, with and without a denoiser.
    """
    return planned_queries([trial] * certifications, [trial])


def planned_queries(
    certified: Sequence[PreparedTrial], stolen: Sequence[PreparedTrial], *, loads: int = 1
) -> TotalQueries | None:
    """Plan the questions to one black box; None where no trial has one.

    Args:
        certified: a trial for each certification on the test split.
        stolen: a trial for each surrogate.
        loads: how often the endpoint is opened.
    """
    configs = [trial.config for trial in certified]
    first = next((config for config in configs if config.classifier.asked is not None), None)
    if first is None or first.classifier.asked is None:
        return None
    return TotalQueries(
        source=first.classifier.source,
        opening=OPENING * loads,
        stealing=sum(trial.stealing_queries for trial in stolen),
        certifying=sum(map(_certifying_queries, certified)),
        certifications=len(certified),
        budget=first.classifier.asked.query_budget,
        adaptive=any(config.certification.procedure == "adaptive" for config in configs),
    )


def _certifying_queries(trial: PreparedTrial) -> int:
    """Return the most images that one certification asks about: noisy ones, and each without."""
    certification = trial.config.certification
    samples = certification.selection_samples + certification.most_estimation_samples
    return certification.test_images * (samples * len(trial.config.certified_sigmas) + 1)
