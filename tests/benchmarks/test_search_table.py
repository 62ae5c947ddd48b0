from tests.benchmarks.search_table import read_table, table_sweep
from tune.domains import contains
from tune.space import reference_parameters
from tune.study import propose


def test_the_table_has_what_a_random_search_of_the_quickstart_tries() -> None:
    rows = read_table()
    assert [row.number for row in rows] == list(range(len(rows)))
    assert len(rows) >= 300
    sweep = table_sweep(len(rows))
    assert rows[0].parameters == reference_parameters(sweep)
    assert all(contains(sweep.space, row.parameters) for row in rows)
    for row in (rows[1], rows[-1]):
        assert row.parameters == propose(sweep, row.number, [], {})
    assert {len(row.average_certified_radius) for row in rows} == {3}
