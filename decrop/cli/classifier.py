"""`decrop classifier`: what is done to the classifier itself."""

import typer

from decrop.cli.classifier_train import train

app = typer.Typer(help="Train the classifier itself.", no_args_is_help=True)
# A group, though there is one command.
app.callback()(lambda: None)
app.command()(train)
