"""`decrop classifier`: what is done to the classifier itself."""

import typer

from decrop.cli.classifier_train import train

_HELP = """Train the classifier itself.

Example: [bold]decrop classifier train classifier_digits --out runs/classifier[/bold]
"""

app = typer.Typer(help=_HELP, no_args_is_help=True, rich_markup_mode="rich")
# With a callback it stays a group, though there is one command.
app.callback()(lambda: None)
app.command()(train)
