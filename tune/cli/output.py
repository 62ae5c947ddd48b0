"""How the commands of sweeps show tables."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from decrop.cli.output import console

if TYPE_CHECKING:
    from tune.results.tables import TextTable

# Of the ends of intervals in %, so that a table fits into a terminal.
INTERVAL_DECIMALS = 0


def print_tables(tables: "Sequence[TextTable]") -> None:
    """Print tables in the terminal."""
    for table in tables:
        shown = Table(title=Text(table.caption))
        for head in table.head:
            justify: JustifyMethod = "right" if head.startswith("r = ") else "left"
            shown.add_column(Text(head), justify=justify, overflow="fold")
        for row in table.rows:
            shown.add_row(*map(Text, row))
        console.print(shown)
