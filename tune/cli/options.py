"""Arguments and options that several commands of sweeps share, and what they check first."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from decrop.errors import InputError

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
    """Refuse to go on where Ray, Optuna or MLflow are missing.

    Raises:
        InputError: one of them is not installed.
    """
    for name in ("mlflow", "optuna", "ray"):
        if find_spec(name) is None:
            raise InputError(
                f"{name} is not installed; install the extra with pip install 'decrop[sweep]'."
            )
