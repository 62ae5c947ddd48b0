"""The `decrop` command."""

from decrop.cli.main import main

__all__ = ["main"]
