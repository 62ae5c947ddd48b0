"""The command line starts quickly, explains itself, and ends with codes that mean something."""

import itertools
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import typer.main

import decrop
from decrop.cli import main as run_and_exit
from decrop.cli.main import build_app
from decrop.errors import InputError, RunError
from decrop.training.loop import TrainingDivergedError
from tests.commands import decrop as command_of
from tests.commands import refused

# mypy takes `decrop.cli.main` for the function of that name in the package.
main_module = sys.modules["decrop.cli.main"]
COMMANDS = sorted(typer.main.get_command(build_app()).commands)  # type: ignore[attr-defined]
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def replace_commands(
    monkeypatch: pytest.MonkeyPatch, command: typer.models.CommandFunctionType
) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command("do")(command)
    app.command("other")(lambda: None)
    monkeypatch.setattr(main_module, "build_app", lambda: app)


def helped(*arguments: str, option: str = "--help") -> str:
    ran = command_of(*arguments, option)
    assert ran.code == 0
    return ANSI.sub("", ran.out)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example_of_itself(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = helped(command)
    assert re.search(rf"Example:\s+decrop {command}\b", shown), shown


def test_help_fits_a_terminal_and_flags_have_no_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for arguments in ([], ["certify"], ["classifier", "train"]):
        lines = helped(*arguments).splitlines()
        assert "--help" in " ".join(lines) and "<bool>" not in " ".join(lines)
        assert max(map(len, lines)) <= 80
        for line, following in itertools.pairwise(lines):
            # A line of a paragraph ends where the next word finds no room.
            if line.strip() and following.strip() and not set(line + following) & set("│╭╰"):
                assert len(line.rstrip()) + len(following.split()[0]) >= 79, (line, following)


def test_help_lists_commands_and_exit_codes() -> None:
    for option in ("--help", "-h"):
        shown = " ".join(helped(option=option).split())
        assert "0 done, 1 failed, 2 bad input, 3 out of time" in shown
        assert all(f" {command} " in shown for command in COMMANDS)


def test_versions_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(package: str) -> str:
        if package == "ray":
            raise PackageNotFoundError
        return "1.2"

    monkeypatch.setattr(main_module, "version", found)
    assert command_of("--version").out.splitlines() == [
        "decrop 1.2",
        f"Python {platform.python_version()}, torch 1.2, ray not installed, mlflow 1.2",
    ]


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_no_heavy_library_is_imported_to_explain(option: str, tmp_path: Path) -> None:
    script = f"""
import sys
from decrop.cli.main import build_app, run
build_app()
try:
    code = run(["{option}"])
finally:
    heavy = {{"torch", "torchvision", "ray", "mlflow", "optuna", "art", "sklearn", "matplotlib"}}
    print("imported:", sorted(heavy & set(sys.modules)), "code:", code)
"""
    process = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(decrop.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == "imported: [] code: 0"


def test_a_command_chooses_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def command() -> None:
        raise typer.Exit(7)

    replace_commands(monkeypatch, command)
    assert command_of("do").code == 7


def test_bad_input_is_one_line_and_gives_2(monkeypatch: pytest.MonkeyPatch) -> None:
    def command() -> None:
        raise InputError("sigma = [0]: must be greater than 0.")

    replace_commands(monkeypatch, command)
    assert refused("do") == "error: sigma = [0]: must be greater than 0.\n"


@pytest.mark.parametrize(
    "error",
    [
        RunError("a sampler gave wrong counts"),
        TrainingDivergedError("the loss is nan"),
        OSError("disk full"),
    ],
)
def test_a_failure_is_one_line_and_gives_1(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def command() -> None:
        raise error

    replace_commands(monkeypatch, command)
    ran = command_of("do")
    assert (ran.code, ran.err) == (1, f"error: {error}\n")


def test_ctrl_c_gives_130_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def command() -> None:
        raise KeyboardInterrupt

    replace_commands(monkeypatch, command)
    ran = command_of("do")
    assert ran.code == 130 and "Traceback" not in ran.err


@pytest.mark.parametrize("arguments", [["nothing"], ["train"], ["train", "digits", "--nothing"]])
def test_wrong_usage_gives_2(arguments: list[str]) -> None:
    ran = command_of(*arguments)
    assert ran.code == 2 and "Traceback" not in ran.err


def test_main_exits_with_the_code_of_its_arguments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        run_and_exit(["nothing"])
    assert exit_.value.code == 2
    monkeypatch.setattr(sys, "argv", ["decrop", "--help"])
    with pytest.raises(SystemExit) as exit_:
        run_and_exit()
    assert exit_.value.code == 0
    assert "Usage: decrop" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train", "digits", "--out", "s3://bucket/run"], "--out s3://bucket/run"),
        (["train", "digits", "--out=gs://bucket/run"], "--out=gs://bucket/run"),
        (["train", "digits", "--set", "dataset.path=hdfs://host/x"], "--set dataset.path=hdfs://"),
        (["verify", "abfss://container@account/bundle"], "abfss://container@account/bundle"),
    ],
)
def test_an_address_in_an_object_store_is_refused_with_the_reason(
    arguments: list[str], named: str
) -> None:
    line = refused(*arguments)
    assert line.startswith(f"error: {named}")
    assert "is in an object store, which can neither rename a file" in line


@pytest.mark.parametrize(
    "settings",
    [
        "dataset: {name: cifar10, path: s3://bucket/data}",
        "{dataset: {name: digits}, limited: {fraction: 0.1}, "
        "classifier: {source: small_cnn, weights: s3://bucket/x}}",
    ],
)
def test_an_object_store_in_a_file_of_settings_is_refused_too(
    settings: str, tmp_path: Path
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(settings)
    assert "is in an object store" in refused("train", file, "--out", tmp_path / "run")
