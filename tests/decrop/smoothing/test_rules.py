"""What every certificate does, whatever its theorem: abstain, and refuse what it cannot use."""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import get_args

import numpy as np

from decrop.rejection.certificates import rejection_certificates
from decrop.smoothing.anytime import anytime_certificates
from decrop.smoothing.certificates import ABSTAIN, Certificates, cohen_certificates
from decrop.smoothing.two_sided import Variant, two_sided_certificates
from tests.cases import cases
from tests.refusals import one_line

Rule = Callable[[np.ndarray, np.ndarray, float, float], Certificates]

RULES: dict[str, Rule] = {
    "cohen": cohen_certificates,
    "anytime": anytime_certificates,
    "rejection": rejection_certificates,
    **{name: partial(two_sided_certificates, variant=name) for name in get_args(Variant)},
}
# Columns of two classes, of a third one or the rejected, and of samples that are not finite.
GOOD = np.array([[9, 1, 2, 0]])
UNEQUAL = np.array([[9, 1, 2, 0], [9, 2, 2, 0]])
REFUSED = [
    ((GOOD, GOOD, 0.0, 0.001), "sigma"),
    ((GOOD, GOOD, -0.25, 0.001), "sigma"),
    ((GOOD, GOOD, float("nan"), 0.001), "sigma"),
    ((GOOD, GOOD, 0.25, 0.0), "failure_probability"),
    ((GOOD, GOOD, 0.25, 1.0), "failure_probability"),
    ((0 * GOOD, GOOD, 0.25, 0.001), "no samples"),
    ((GOOD, 0 * GOOD, 0.25, 0.001), "no samples"),
    ((GOOD, -GOOD, 0.25, 0.001), "negative"),
    ((UNEQUAL, UNEQUAL, 0.25, 0.001), "same number of samples"),
    ((GOOD, np.array([[9, 1, 2, 0, 0]]), 0.25, 0.001), "same shape"),
    ((GOOD[:0], GOOD[:0], 0.25, 0.001), "at least one image"),
    ((GOOD[:, :2], GOOD[:, :2], 0.25, 0.001), "two classes"),
]


@cases(("name", "refused"), list(product(RULES, REFUSED)))
def test_bad_arguments_are_refused(
    name: str, refused: tuple[tuple[np.ndarray, np.ndarray, float, float], str]
) -> None:
    arguments, said = refused
    # An image that was not sampled yet has no certificate, at any time.
    if not (name == "anytime" and arguments[1].sum() == 0 and len(arguments[1])):
        assert said in one_line(RULES[name], *arguments)


@cases("name", RULES)
def test_images_with_non_finite_samples_abstain(name: str) -> None:
    selection = np.array([[99, 0, 0, 1], [100, 0, 0, 0], [100, 0, 0, 0], [0, 0, 0, 100]])
    estimation = np.array([[100, 0, 0, 0], [99, 0, 0, 1], [100, 0, 0, 0], [0, 0, 0, 100]])
    result = RULES[name](selection, estimation, 0.25, 0.001)
    assert result.prediction.tolist() == [ABSTAIN, ABSTAIN, 0, ABSTAIN]
    assert (result.radius > 0).tolist() == [False, False, True, False]
