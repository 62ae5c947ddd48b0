"""The commands that sweeps add to `decrop`."""

import typer

from tune.cli.results import compare, export, leaderboard, report
from tune.cli.settings import schema, settings
from tune.cli.sweeps import resume, sweep
from tune.cli.upkeep import audit, clean, dashboard, sync

app = typer.Typer()
for command in (
    *(sweep, resume, leaderboard, compare, report, export),
    *(sync, dashboard, audit, clean),
    *(settings, schema),
):
    app.command()(command)
