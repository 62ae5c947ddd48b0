"""Progress and results of commands in the terminal."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from decrop.errors import InputError
from decrop.wording import counted

if TYPE_CHECKING:
    from torch import nn

    from decrop.smoothing.collect import CertificationProgress, OnProgress
    from decrop.training.hooks import Hooks
    from decrop.trial.result import Scores


# Names of users are shown as they are, whatever signs they have.
console = Console(markup=False, emoji=False, highlight=False)


def say(line: str, to: Console | None = None) -> None:
    """Print a line as it is, however long it is, to the command's console if no other is given."""
    (to or console).print(line, soft_wrap=True)


_LINE_SECONDS = 10.0


class ProgressBars:
    """Shows how far work has come: bars on a terminal, elsewhere a line at each tenth.

    A line is printed as well where none was for ten seconds.
    """

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._stages: dict[str, Callable[[int, int], None]] = {}

    def hooks(self, certifying: str | None = None) -> "Hooks":
        """Return the hooks of a run: a bar for each of its stages, and one of certification.

        Args:
            certifying: what the last is called; None where nothing is certified.
        """
        from decrop.training.hooks import Hooks

        hooks = Hooks(
            on_progress=self.stage,
            say=say,
        )
        if certifying is None:
            return hooks
        return replace(
            hooks,
            on_certified=self.certification(certifying),
            certifying=lambda name: self.certification(f"{certifying} {name}"),
        )

    def stage(self, name: str, done: int, total: int) -> None:
        """Show how much of a stage is done; its bar begins with the first call."""
        if name not in self._stages:
            self._stages[name] = self.counted(name)
        self._stages[name](done, total)

    def counted(self, description: str) -> Callable[[int, int], None]:
        """Begin a bar; its callback takes what is done, and how much there is in all."""
        show = self._begin()
        return lambda done, total: show(f"{description}: {done} of {total}", done, total)

    def certification(self, description: str) -> "OnProgress":
        """Return what shows images done, samples a second and time left; its first call begins."""
        show: Callable[[str, int, int], None] | None = None
        started, drawn_before = 0.0, 0

        def update(progress: "CertificationProgress") -> None:
            nonlocal show, started, drawn_before
            drawn, now = progress.samples - progress.restored, time.monotonic()
            if show is None:
                show, started, drawn_before = self._begin(), now, drawn
            text = f"{description}: {progress.images_done} of {counted(progress.images, 'image')}"
            if drawn > drawn_before and now > started:
                rate = (drawn - drawn_before) / (now - started)
                text += f", {rate:,.0f} samples a second"
                left = (progress.samples_expected - progress.samples) / rate
                if left >= 1:
                    text += f", about {duration(left)} left"
            show(text, progress.samples, progress.samples_expected)

        return update

    def _begin(self) -> Callable[[str, int, int], None]:
        if self._progress is not None:
            progress, bar = self._progress, self._progress.add_task("", total=None)
            return lambda text, done, total: progress.update(
                bar, description=text, completed=done, total=total
            )
        printed, at = 0, time.monotonic()

        def line(text: str, done: int, total: int) -> None:
            nonlocal printed, at
            tenths, now = 10 * done // total, time.monotonic()
            if tenths > printed or now - at >= _LINE_SECONDS:
                printed, at = max(printed, tenths), now
                say(text)

        return line


@contextmanager
def progress_bars(waiting_for: str | None = None) -> Iterator[ProgressBars]:
    """Show bars while a block runs, and on a terminal what it waits for beside them."""
    if console.is_terminal:
        text = TextColumn("{task.description}", markup=False)
        with Progress(text, BarColumn(), console=console) as progress:
            waiting = progress.add_task(waiting_for or "", total=None, visible=bool(waiting_for))
            try:
                yield ProgressBars(progress)
            finally:
                progress.remove_task(waiting)
    else:
        yield ProgressBars(None)


def duration(seconds: float) -> str:
    """Write a duration in its two largest units, such as 2 min 5 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def accuracy_table(title: str, rows: "Mapping[str, Scores]") -> Table:
    """Tabulate certified accuracy at each radius, with exact 95 % intervals."""
    table = Table(title=title, collapse_padding=True)
    # Folded where a terminal is narrow: nothing is cut off.
    table.add_column("", overflow="fold")
    radii = list(next(iter(rows.values())).certified_accuracy)
    for radius in radii:
        table.add_column(f"r = {radius}", justify="right", overflow="fold")
    table.add_column("average radius", justify="right", overflow="fold")
    for name, scores in rows.items():
        cells = [
            accuracy_cell(scores.certified_accuracy[radius], scores.images) for radius in radii
        ]
        table.add_row(name, *cells, _average_cell(scores))
    return table


def _average_cell(scores: "Scores") -> Text:
    low, high = scores.average_radius_interval
    average = f"{scores.average_certified_radius:.3f} "
    return Text.assemble(average, (f"({low:.2f}–{high:.2f})", "dim"))


def accuracy_cell(accuracy: float, images: int) -> Text:
    """Write a share in percent with its exact 95 % interval."""
    # Statistics take seconds to import; commands without a table do without.
    from decrop.evaluation.accuracy import exact_interval

    low, high = exact_interval(round(accuracy * images), images)
    return Text.assemble(f"{100 * accuracy:.1f} ", (f"({100 * low:.0f}–{100 * high:.0f})", "dim"))


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON object on a line of its own, unwrapped and uncoloured."""
    print(json.dumps(document), flush=True)


@contextmanager
def queries_shown(network: "nn.Module") -> Iterator[None]:
    """Say after a block, however it ends, what a network's endpoint has been asked in all."""
    from decrop.smoothing.backend import backend_of

    try:
        yield
    finally:
        said = backend_of(network).spent()
        if said is not None:
            say(said)


def refuse_queries(queries: Path | None, *, asked: bool) -> None:
    """Raise InputError where a count of queries is named, but no endpoint is asked."""
    if queries is not None and not asked:
        raise InputError(f"--queries {queries} is of endpoints, but none is asked here.")
