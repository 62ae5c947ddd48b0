"""`decrop schema` and `decrop settings`."""

import json
from pathlib import Path

from tests.commands import decrop, refused
from tune.schema import all_settings, sweep_schema, trial_schema


def test_schemas_are_printed(tmp_path: Path) -> None:
    for arguments, expected in (
        ([], sweep_schema()),
        (["sweep"], sweep_schema()),
        (["trial"], trial_schema()),
    ):
        assert json.loads(decrop("schema", *arguments).out) == expected
    ran = decrop("schema", "trial", "--out", tmp_path / "schema.json")
    assert (ran.code, ran.out) == (0, "")
    assert json.loads((tmp_path / "schema.json").read_text()) == trial_schema()


def test_settings_fit_a_terminal() -> None:
    lines = decrop("settings").out.splitlines()
    assert max(map(len, lines)) <= 80
    heads = [line.partition(" = ")[0] for line in lines if not line.startswith(" ")]
    assert heads == [setting.path for setting in all_settings()]


def test_a_group_or_a_name_is_listed_alone() -> None:
    assert decrop("settings", "limited").out.startswith(
        "limited.fraction = 0.01\n    number, above 0, at most 1; same in all trials\n    Share of "
    )
    found = decrop("settings", "mixing_coefficient").out
    assert found.startswith("interpolation.mixing_coefficient = 0.5\n")
    assert refused("settings", "trainig") == (
        "error: trainig is not a setting; nearest: training; `decrop settings` lists all.\n"
    )
