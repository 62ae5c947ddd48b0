"""Assemble the command line from all packages' commands, and map errors to exit codes."""

import io
import platform
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, entry_points, version
from inspect import cleandoc
from typing import Annotated, Any

import typer

from decrop.cli.certify import certify
from decrop.cli.classifier import app as classifier
from decrop.cli.figures import figures
from decrop.cli.inspect import inspect
from decrop.cli.rejector import rejector
from decrop.cli.train import train
from decrop.cli.verify import verify
from decrop.errors import InputError, RunError
from decrop.files import refuse_object_store

FAILED, BAD_INPUT = 1, 2
_HELP_OPTIONS = ["-h", "--help"]
_COMMAND_GROUP = "decrop.commands"
_HELP = """Certified robustness for pretrained classifiers from little data.

DE-CROP trains a denoiser to put in front of a pretrained image classifier; randomised
smoothing then certifies, for each image, an L2 radius inside which no perturbation
changes the prediction.

Start with [bold]decrop sweep quickstart[/bold], a whole sweep on scikit-learn's digits in a
few minutes, or train a single denoiser with [bold]decrop train digits[/bold].

Exit codes: 0 done, 1 failed, 2 bad input, 3 out of time (--max-hours), 130 interrupted.
"""


def build_app() -> typer.Typer:
    """Collect all commands, those of other installed packages through their entry points."""
    app = typer.Typer(
        help=_HELP,
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": _HELP_OPTIONS},
    )
    app.callback()(_options)
    for extension in sorted(entry_points(group=_COMMAND_GROUP), key=lambda point: point.name):
        app.add_typer(extension.load())
    for command in (inspect, train, certify, verify, figures):
        app.command()(command)
    app.add_typer(classifier, name="classifier")
    app.add_typer(rejector)
    return app


def _options(
    _: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the versions that a bug report needs.",
            is_eager=True,
            callback=lambda asked: _print_versions() if asked else None,
        ),
    ] = False,
) -> None:
    """Take the options of `decrop` itself."""


def _print_versions() -> None:
    # Read, not imported, which would take seconds.
    beside = ", ".join(map(_version, ("torch", "ray", "mlflow")))
    print(f"{_version('decrop')}\nPython {platform.python_version()}, {beside}")
    raise typer.Exit


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} not installed"


def _tidy_help(command: Any) -> None:
    """Let help texts wrap at the terminal's width alone, and options without a value show none."""
    paragraphs = cleandoc(command.help or "").split("\n\n")
    command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    context = typer.Context(command, help_option_names=_HELP_OPTIONS)
    for option in (*command.params, command.get_help_option(context)):
        if getattr(option, "is_bool_flag", False):
            option.metavar = ""
    for inner in getattr(command, "commands", {}).values():
        _tidy_help(inner)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    warnings.formatwarning = _warning_line
    # Names that the terminal's encoding cannot show are escaped, and end no command.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def _warning_line(message: Warning | str, *_: object, **__: object) -> str:
    return f"warning: {message}\n"


def run(arguments: list[str]) -> int:
    """Run the command line and return its exit code; mistakes of the user print a line each."""
    try:
        _refuse_object_stores(arguments)
        command = typer.main.get_command(build_app())
        _tidy_help(command)
        command(arguments, prog_name="decrop")
    except InputError as error:
        for mistake in error.mistakes:
            print(f"error: {mistake}", file=sys.stderr)
        return BAD_INPUT
    except (RunError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else FAILED
    return 0


def _refuse_object_stores(arguments: Sequence[str]) -> None:
    """Refuse addresses of object stores, as `--out s3://…`, `--out=s3://…`, `--set KEY=s3://…`."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        option = f"{before} " if before.startswith("--") else ""
        refuse_object_store(argument.rpartition("=")[2], f"{option}{argument}")
