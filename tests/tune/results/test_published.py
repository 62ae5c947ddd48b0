"""Published numbers against the presets that repeat them."""

from decrop.config import CertificationSettings
from tests.cases import cases
from tune.results.published import published_table
from tune.sweep_file import load_sweep

TABLES = [f"paper_table{number}" for number in (1, 2, 3, 4)]
SUPPLEMENT = ["paper_supplement_table1", "paper_supplement_table2"]


@cases("name", TABLES + SUPPLEMENT)
def test_certified_accuracies_fall_with_the_radius(name: str) -> None:
    table = published_table(name)
    assert table.radii == CertificationSettings().radii
    assert len(table.rows) >= 3
    for values in table.rows.values():
        assert len(values) == 4
        assert list(values) == sorted(values, reverse=True)
        assert values[-1] >= 0 and values[0] <= 100


@cases("name", TABLES + SUPPLEMENT)
def test_published_rows_are_rows_of_the_preset(name: str) -> None:
    published = list(published_table(name).rows)
    # Of the preset's rows the paper may lack some.
    assert [row for row in load_sweep(name).rows if row in published] == published


def test_numbers_are_those_of_the_paper() -> None:
    table4 = published_table("paper_table4").rows
    assert table4["baseline"] == (29.8, 9.2, 1.4, 0.0)
    assert table4["+ discriminator"] == (54.0, 26.0, 6.8, 1.8)
    assert table4["+ discriminator + MMD"] == (57.6, 27.2, 9.2, 2.2)
    assert published_table("paper_table1").rows["L1"] == (22.6, 5.8, 0.6, 0.0)


def test_other_sweeps_have_none() -> None:
    assert published_table("quickstart").rows == {}
