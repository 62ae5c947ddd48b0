"""How many queries are planned, and which plans are refused."""

import pytest

from decrop.cli.options import load_trial
from decrop.config import TrialConfig
from decrop.errors import InputError
from decrop.trial.prepare import prepare
from decrop.trial.query_budget import OPENING, TotalQueries, total_queries
from tests.decrop.black_box.functions import URL, through_surrogate
from tests.refusals import one_line

BLACK_BOX = (
    *through_surrogate(700),
    "certification.selection_samples=20",
    "certification.estimation_samples=80",
    "certification.max_samples=100",
    "certification.test_images=50",
)
STEALING, ONCE = 700, 50 * (100 + 1)
FIXED = "certification.procedure=fixed"


def settings(*assignments: str) -> TrialConfig:
    return load_trial("digits", [*BLACK_BOX, *assignments])


def plan(*assignments: str, certifications: int = 2) -> TotalQueries:
    config = settings(*assignments)
    found = total_queries(prepare(config), certifications=certifications)
    assert found is not None
    return found


@pytest.mark.parametrize("procedure", ["fixed", "adaptive"])
def test_the_most_is_stealing_and_all_samples(procedure: str) -> None:
    found = plan(f"certification.procedure={procedure}")
    assert found.most == OPENING + STEALING + 2 * ONCE
    assert found.sentence() == (
        f"{URL} is asked about at most {found.most:,} images: 700 for the surrogate, 10,100 to "
        "certify test images 2 times, 2 to see what it answers; there is no budget"
    )
    found.check()


def test_no_more_images_are_planned_than_there_are() -> None:
    with pytest.raises(InputError, match=r"--set certification\.test_images=500\."):
        plan("certification.test_images=9999")


def test_a_white_box_is_asked_nothing() -> None:
    config = load_trial("digits", [])
    assert total_queries(prepare(config), certifications=2) is None


def budget(images: int) -> str:
    return f"classifier.endpoint.query_budget={images}"


def test_fixed_certificates_must_fit_into_the_budget() -> None:
    most = plan(FIXED).most
    enough = plan(FIXED, budget(most))
    enough.check()
    assert enough.sentence().endswith(f"; the budget is {most:,}")
    message = one_line(plan(FIXED, budget(most - 1)).check)
    assert message.startswith(f"classifier.endpoint.query_budget {most - 1:,}: surrogate and fixed")
    assert f"{most:,} images" in message and "\n" not in message
    with pytest.raises(InputError, match="of which 1 are spent"):
        enough.check(spent=1)


def test_adaptive_certificates_may_try_but_stealing_must_fit() -> None:
    tight = plan(budget(OPENING + STEALING))
    tight.check()
    assert "which may not suffice" in tight.sentence()
    with pytest.raises(InputError, match="the surrogate take"):
        plan(budget(OPENING + STEALING - 1)).check()


def test_a_raised_budget_is_the_same_work() -> None:
    few, many, other = settings(budget(1)), settings(budget(2)), settings("seed=1", budget(1))
    assert few != many
    assert few.without_budget() == many.without_budget()
    assert few.without_budget() != other.without_budget()
    assert settings().without_budget() == settings()
