"""Published numbers against the presets that repeat them."""

from decrop.config import CertificationSettings
from tests.cases import cases
from tune.results.report import published
from tune.sweep_file import load_sweep

TABLES = [f"paper_table{number}" for number in (1, 2, 3, 4)]
SUPPLEMENT = ["paper_supplement_table1", "paper_supplement_table2"]


@cases("name", TABLES + SUPPLEMENT)
def test_certified_accuracies_fall_with_the_radius(name: str) -> None:
    assert published().radii == CertificationSettings().radii
    rows = published().tables[name]
    assert len(rows) >= 3
    for values in rows.values():
        assert len(values) == 4
        assert list(values) == sorted(values, reverse=True)
        assert values[-1] >= 0 and values[0] <= 100


@cases("name", TABLES + SUPPLEMENT)
def test_published_rows_are_rows_of_the_preset(name: str) -> None:
    known = list(published().tables[name])
    # Of the preset's rows the paper may lack some.
    assert [row for row in load_sweep(name).rows if row in known] == known


def test_numbers_are_those_of_the_paper() -> None:
    table4 = published().tables["paper_table4"]
    assert table4["baseline"] == (29.8, 9.2, 1.4, 0.0)
    assert table4["+ discriminator"] == (54.0, 26.0, 6.8, 1.8)
    assert table4["+ discriminator + MMD"] == (57.6, 27.2, 9.2, 2.2)
    assert published().tables["paper_table1"]["L1"] == (22.6, 5.8, 0.6, 0.0)
