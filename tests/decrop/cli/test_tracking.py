"""`--tracking-uri` of a training, where nothing is installed that knows MLflow."""

from importlib.metadata import EntryPoints
from pathlib import Path

import pytest

import decrop.cli.tracking
from tests.commands import refused

URI = "http://127.0.0.1:9"


def test_it_needs_the_sweep_extra(
    tmp_path: Path,
    exported: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decrop.cli.tracking, "entry_points", lambda **wanted: EntryPoints())
    for number, command in enumerate(
        (["classifier", "train", "classifier_digits"], ["rejector", "train", str(exported)])
    ):
        out = tmp_path / str(number)
        message = refused(*command, "--out", out, "--tracking-uri", URI)
        assert message == (
            "error: --tracking-uri needs MLflow; install it with pip install 'decrop[sweep]'.\n"
        )
        assert not list(tmp_path.iterdir())


def test_an_experiment_needs_a_server(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    arguments = ["classifier", "train", "classifier_digits", "--out", out, "--experiment", "mine"]
    assert "--experiment mine: has no effect without --tracking-uri" in refused(*arguments)
