"""`decrop classifier`: what is done to the classifier itself."""

import typer

from decrop.cli.classifier_steal import steal
from decrop.cli.classifier_train import train

_HELP = """Train the classifier itself, or a surrogate of one that only answers.

Example: [bold]decrop classifier train classifier_digits --out runs/classifier[/bold]
"""

app = typer.Typer(help=_HELP, no_args_is_help=True, rich_markup_mode="rich")
app.command()(train)
app.command()(steal)
