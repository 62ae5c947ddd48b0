"""The common cause of failures."""

from tune.failures import common_cause, last_line

DIVERGED = "Traceback (most recent call last):\n  File …\nDivergedError: the loss is {}; lower it\n"


def test_the_last_line_names_the_error() -> None:
    assert last_line(DIVERGED.format("nan")) == "DivergedError: the loss is nan; lower it"


def test_errors_of_one_type_are_one_cause() -> None:
    errors = [DIVERGED.format(loss) for loss in ("nan", "inf", "inf")]
    errors += ["MemoryError: no memory left"] * 2
    assert common_cause(errors) == ("DivergedError: the loss is inf; lower it", 3)


def test_one_failure_is_its_own_cause() -> None:
    assert common_cause(["the trial's process died once"]) == ("the trial's process died once", 1)
