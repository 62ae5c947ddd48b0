import pytest

from decrop.errors import InputError
from tests.cases import cases
from tests.refusals import one_line
from tests.tune.sweeps import result
from tune.results.metric import Metric, metric_named, metrics_named, pareto_front

RADII = (0.0, 0.25, 0.5)


@cases(
    ("text", "metric", "score", "shown"),
    [
        ("average_certified_radius", Metric(), 0.3, "0.300"),
        ("acr", Metric(), 0.3, "0.300"),
        ("certified_accuracy@0.25", Metric(0.25), 0.5, "50.0 %"),
        ("certified_accuracy@.250", Metric(0.25), 0.5, "50.0 %"),
        ("certified_accuracy@0", Metric(0.0), 0.7, "70.0 %"),
        ("certified_accuracy_area", Metric(kind="certified_accuracy_area"), 0.6, "60.0 %"),
        ("clean_accuracy", Metric(kind="clean_accuracy"), 0.9, "90.0 %"),
        ("latency", Metric(kind="latency"), 0.002, "2 ms"),
        ("parameters", Metric(kind="parameters"), 1234, "1,234"),
    ],
)
def test_a_name_gives_the_value_of_a_result(
    text: str, metric: Metric, score: float, shown: str
) -> None:
    found = metric_named(text, RADII, source="--by")
    assert found == metric
    outcome = {**result(), "seconds": {"noisy_image": 0.002}, "parameters": 1234}
    assert found.score(outcome) == pytest.approx(score)
    assert found.text(score) == shown


def test_names_and_phrases() -> None:
    assert (Metric().name, Metric().phrase) == (
        "average_certified_radius",
        "average certified radius",
    )
    assert Metric(0.5).name == "certified_accuracy@0.5"
    assert Metric(0.5).phrase == "certified accuracy at r = 0.5"


@cases("text", ["certified_accuracy@0.3", "certified_accuracy@x", "certified_accuracy", "ACR", ""])
def test_other_names_are_refused_with_the_valid_ones(text: str) -> None:
    said = one_line(metric_named, text, RADII, source="--by")
    assert said == (
        f"--by {text}: must be one of average_certified_radius, certified_accuracy@0, "
        "certified_accuracy@0.25, certified_accuracy@0.5, certified_accuracy_area, clean_accuracy, "
        "latency, parameters."
    )


def test_a_radius_that_a_result_lacks_is_refused() -> None:
    with pytest.raises(InputError, match=r"certified_accuracy@0\.5: was not certified"):
        Metric(0.5).score(result())


def test_the_area_is_a_mean_over_the_radii_whatever_their_distances() -> None:
    accuracies = {"0.0": 0.8, "0.5": 0.4, "0.75": 0.2}
    area = Metric(kind="certified_accuracy_area").score({"certified_accuracy": accuracies})
    # Trapezia of 0.5 x 0.6 and 0.25 x 0.3 over a width of 0.75.
    assert area == pytest.approx((0.5 * 0.6 + 0.25 * 0.3) / 0.75)


@cases("name", ["latency", "clean_accuracy", "parameters"])
def test_what_a_result_lacks_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name}: was not measured"):
        metric_named(name, RADII, source="--by").score({"seconds": {}})


@cases(
    ("names", "expected"),
    [
        (["latency"], "must not be the first"),
        (["clean_accuracy", "average_certified_radius"], "must not be the first"),
        (
            ["average_certified_radius", "parameters", "acr"],
            "average_certified_radius: is given twice",
        ),
        (["average_certified_radius", "size"], "size: must be one of average_certified_radius"),
    ],
)
def test_objectives_that_cannot_be_searched_for_are_refused(
    names: list[str], expected: str
) -> None:
    with pytest.raises(InputError, match=expected):
        metrics_named(names, RADII, source="objectives")


def test_the_front_has_what_nothing_beats() -> None:
    metrics = metrics_named(["average_certified_radius", "parameters"], RADII, source="objectives")
    values = {
        0: (0.1, 10.0),
        1: (0.05, 10.0),
        2: (0.3, 20.0),
        3: (0.3, 30.0),
        4: (0.4, 40.0),
        5: (0.4, 40.0),
    }
    assert pareto_front(values, metrics) == [0, 2, 4, 5]
    assert pareto_front({}, metrics) == []
