"""Commands that tell what files of settings may hold: schema, settings."""

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from decrop.errors import InputError

if TYPE_CHECKING:
    from tune.schema import Setting

_WIDTH = 80


def schema(
    kind: Annotated[
        Literal["sweep", "trial"], typer.Argument(help="Of sweep files, or of trials' settings.")
    ] = "sweep",
    out: Annotated[Path | None, typer.Option(help="File to write instead.")] = None,
) -> None:
    """Print the JSON schema of sweep files, by which editors complete and check them.

    With the first line `# yaml-language-server: $schema=sweep.schema.json` a file is checked while
    it is written, in every editor with the YAML language server.

    Example: [bold]decrop schema sweep --out sweep.schema.json[/bold]
    """
    from decrop.files import write_text
    from tune.schema import sweep_schema, trial_schema

    text = json.dumps(sweep_schema() if kind == "sweep" else trial_schema(), indent=1)
    if out is None:
        print(text)
    else:
        write_text(out, f"{text}\n")


def settings(
    group: Annotated[
        str | None,
        typer.Argument(help="A group, as training.loss_weights, or a setting's name; all if none."),
    ] = None,
) -> None:
    """List settings: path and default, what is allowed, whether a sweep may vary it, and meaning.

    Example: [bold]decrop settings training.loss_weights[/bold]
    """
    from decrop.config import TrialConfig
    from decrop.documents import unknown
    from tune.schema import all_settings
    from tune.sweep_file import SweepConfig

    every = list(all_settings())
    shown = [setting for setting in every if group is None or _is_of(setting.path, group)]
    if not shown:
        top = [*TrialConfig.model_fields, *SweepConfig.model_fields]
        raise InputError(f"{unknown(group or '', top)}; `decrop settings` lists all.")
    print("\n".join(map(_paragraph, shown)))


def _is_of(path: str, group: str) -> bool:
    return f".{path}.".startswith(f".{group}.") or path.endswith(f".{group}")


def _paragraph(setting: "Setting") -> str:
    default = "must be given" if setting.required else _written(setting.default)
    searched = {True: "may be searched", False: "same in all trials", None: "of the sweep"}
    lines = [
        f"{setting.path} = {default}",
        f"{setting.allowed}; {searched[setting.searched]}",
        setting.description,
    ]
    return "\n".join(
        textwrap.fill(
            line,
            _WIDTH,
            initial_indent="    " if number else "",
            subsequent_indent="    ",
            break_on_hyphens=False,
        )
        for number, line in enumerate(lines)
        if line
    )


def _written(value: Any) -> str:
    """Write a value as a sweep file does."""
    return value if isinstance(value, str) and value else json.dumps(value)
