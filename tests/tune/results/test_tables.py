import pytest

from tune.results.tables import mean_cell


@pytest.mark.parametrize(
    ("values", "form", "cell"),
    [
        ([40.0, 50.0, 90.0], "{:.1f}", "60.0 ± 26.5 [3]"),
        ([0.2, 0.2], "{:.3f}", "0.200 ± 0.000 [2]"),
        ([0.25], "{:.2f}", "0.25 [1]"),
    ],
)
def test_a_mean_stands_with_its_standard_deviation(
    values: list[float], form: str, cell: str
) -> None:
    assert mean_cell(values, form) == cell
