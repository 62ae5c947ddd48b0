"""`--tracking-uri` of a training, where nothing is installed that knows MLflow."""

from importlib.metadata import EntryPoints
from pathlib import Path

import pytest

import decrop.cli.tracking
from decrop.cli.main import run

URI = "http://127.0.0.1:9"


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert run(arguments) == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    return shown.err


def test_it_needs_the_sweep_extra(
    tmp_path: Path,
    exported: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decrop.cli.tracking, "entry_points", lambda **wanted: EntryPoints())
    for number, command in enumerate(
        (["classifier", "train", "classifier_digits"], ["rejector", "train", str(exported)])
    ):
        out = tmp_path / str(number)
        message = refused([*command, "--out", str(out), "--tracking-uri", URI], capsys)
        assert message == (
            "error: --tracking-uri needs MLflow; install it with pip install 'decrop[sweep]'.\n"
        )
        assert not list(tmp_path.iterdir())


def test_an_experiment_needs_a_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    arguments = ["classifier", "train", "classifier_digits", "--out", out, "--experiment", "mine"]
    assert "--experiment mine: has no effect without --tracking-uri" in refused(arguments, capsys)
