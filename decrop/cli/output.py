"""How commands show progress and results."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    from decrop.result import Scores

OnProgress = Callable[[int, int], None]

console = Console()


@contextmanager
def progress_bars() -> Iterator[Callable[[str], OnProgress]]:
    """Show bars while a block runs; call the yielded function for a new bar's callback.

    On a terminal the bars are live, elsewhere a line is printed at each tenth of the way.
    """
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeRemainingColumn(), console=console) as progress:

            def live(description: str) -> OnProgress:
                bar = progress.add_task(description, total=None)
                return lambda done, total: progress.update(bar, completed=done, total=total)

            yield live
    else:
        yield _lines


def _lines(description: str) -> OnProgress:
    printed = 0

    def show(done: int, total: int) -> None:
        nonlocal printed
        tenths = 10 * done // total
        if tenths > printed:
            printed = tenths
            console.print(f"{description}: {done} of {total}", highlight=False)

    return show


def accuracy_table(title: str, rows: "Mapping[str, Scores]") -> Table:
    """Tabulate certified accuracy at each radius, with exact 95 % intervals."""
    table = Table(title=title)
    table.add_column("")
    radii = list(next(iter(rows.values())).certified_accuracy)
    for radius in radii:
        table.add_column(f"r = {radius}", justify="right")
    table.add_column("average radius", justify="right")
    for name, scores in rows.items():
        cells = [
            accuracy_cell(scores.certified_accuracy[radius], scores.images) for radius in radii
        ]
        table.add_row(name, *cells, f"{scores.average_certified_radius:.3f}")
    return table


def accuracy_cell(accuracy: float, images: int) -> str:
    """Write a share in percent with its exact 95 % interval."""
    # Statistics take seconds to import; commands without a table do without.
    from decrop.evaluation.accuracy import exact_interval

    low, high = exact_interval(round(accuracy * images), images)
    return f"{100 * accuracy:.1f} [dim]({100 * low:.0f}–{100 * high:.0f})[/dim]"


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON object on a line of its own, unwrapped and uncoloured."""
    print(json.dumps(document), flush=True)
