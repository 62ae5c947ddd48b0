"""`decrop schema` and `decrop settings`."""

import json
from pathlib import Path

import pytest

from decrop.cli.main import run
from tune.schema import all_settings, sweep_schema, trial_schema


def test_schemas_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, expected in (
        ([], sweep_schema()),
        (["sweep"], sweep_schema()),
        (["trial"], trial_schema()),
    ):
        assert run(["schema", *arguments]) == 0
        assert json.loads(capsys.readouterr().out) == expected
    assert run(["schema", "trial", "--out", str(tmp_path / "schema.json")]) == 0
    assert json.loads((tmp_path / "schema.json").read_text()) == trial_schema()
    assert capsys.readouterr().out == ""


def test_settings_fit_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["settings"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    heads = [line.partition(" = ")[0] for line in lines if not line.startswith(" ")]
    assert heads == [setting.path for setting in all_settings()]


def test_a_group_or_a_name_is_listed_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["settings", "limited"]) == 0
    assert capsys.readouterr().out.startswith(
        "limited.fraction = 0.01\n    number, above 0, at most 1; same in all trials\n    Share of "
    )
    assert run(["settings", "mixing_coefficient"]) == 0
    assert capsys.readouterr().out.startswith("interpolation.mixing_coefficient = 0.5\n")
    assert run(["settings", "trainig"]) == 2
    assert capsys.readouterr().err == (
        "error: trainig is not a setting; nearest: training; `decrop settings` lists all.\n"
    )
