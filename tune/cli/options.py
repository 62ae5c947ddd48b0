"""Arguments that several commands of sweeps share, and how they show tables."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from decrop.cli.output import console, say
from decrop.errors import InputError

if TYPE_CHECKING:
    from tune.results.tables import TextTable


Directory = Annotated[Path, typer.Argument(help="Sweep directory, as `decrop sweep` printed it.")]
Address = Annotated[
    str | None,
    typer.Option(help="Ray cluster: auto or HOST:PORT. Without it, this machine's cores are used."),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(help="MLflow server, http(s)://…, instead of a store in the sweep directory."),
]


def require_sweep_extra() -> None:
    """Refuse to go on where something of the extra is missing."""
    for name in ("jinja2", "mlflow", "optuna", "plotly", "ray"):
        if find_spec(name) is None:
            raise InputError(
                f"{name} is not installed; install the extra with pip install 'decrop[sweep]'."
            )


@contextmanager
def mlflow_errors() -> Iterator[None]:
    """End the command with exit code 1 where MLflow fails in the block."""
    from tune.mlflow.client import TrackingError

    try:
        yield
    except TrackingError as error:
        say(f"error: {error}")
        raise typer.Exit(1) from None


# Of the ends of intervals in %, so that a table fits into a terminal.
INTERVAL_DECIMALS = 0
_WHOLE_WORD = 9
# With more columns a terminal has no room for lines between them.
_MOST_LINED = 8


def print_tables(tables: "Sequence[TextTable]") -> None:
    """Print tables in the terminal."""
    for table in tables:
        shown, bare = Table(title=Text(table.caption)), len(table.head) > _MOST_LINED
        if bare:
            shown.box, shown.show_edge, shown.padding = SIMPLE_HEAD, False, 0
        for number, head in enumerate(table.head):
            justify: JustifyMethod = "right" if head.startswith("r = ") else "left"
            named = number == table.head.index("rank") + 1 if "rank" in table.head else not number
            texts = [head, *(row[number] for row in table.rows)] if named or bare else []
            words = " ".join(texts[0 if bare else 1 :]).split()
            # The words of a name stay whole, unless they are long.
            least = min(_WHOLE_WORD, max(map(len, words), default=1))
            # Of many columns none has a least width: rich would cut off what has no room.
            shown.add_column(
                Text(head),
                justify=justify,
                overflow="fold",
                min_width=None if bare else least,
                max_width=least if bare and not named else None,
            )
        for row in table.rows:
            shown.add_row(*map(Text, row))
        console.print(shown)
