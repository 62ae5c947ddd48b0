import pytest

from decrop.errors import InputError
from tests.cases import cases
from tests.tune.sweeps import result
from tune.results.metric import Metric, metric_named

RADII = (0.0, 0.25, 0.5)


@cases(
    ("text", "metric", "score", "shown"),
    [
        ("acr", Metric(), 0.3, "0.300"),
        ("certified_accuracy@0.25", Metric(0.25), 0.5, "50.0 %"),
        ("certified_accuracy@.250", Metric(0.25), 0.5, "50.0 %"),
        ("certified_accuracy@0", Metric(0.0), 0.7, "70.0 %"),
    ],
)
def test_a_name_gives_the_value_of_a_result(
    text: str, metric: Metric, score: float, shown: str
) -> None:
    found = metric_named(text, RADII, source="--by")
    assert found == metric
    assert found.score(result()) == score
    assert found.text(score) == shown


def test_names_and_phrases() -> None:
    assert (Metric().name, Metric().phrase) == ("acr", "average certified radius")
    assert Metric(0.5).name == "certified_accuracy@0.5"
    assert Metric(0.5).phrase == "certified accuracy at r = 0.5"


@cases("text", ["certified_accuracy@0.3", "certified_accuracy@x", "certified_accuracy", "ACR", ""])
def test_other_names_are_refused_with_the_valid_ones(text: str) -> None:
    with pytest.raises(InputError) as refused:
        metric_named(text, RADII, source="--by")
    assert str(refused.value) == (
        f"--by {text}: must be one of acr, certified_accuracy@0, certified_accuracy@0.25, "
        "certified_accuracy@0.5."
    )


def test_a_radius_that_a_result_lacks_is_refused() -> None:
    with pytest.raises(InputError, match=r"certified_accuracy@0\.5: was not certified"):
        Metric(0.5).score(result())
