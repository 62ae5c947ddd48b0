"""The sweep's own MLflow store."""

from pathlib import Path

from decrop.files import write_whole


def create_store(database: Path) -> None:
    """Make an empty store with MLflow's tables where there is none.

    Whole or not at all: MLflow cannot go on with tables whose making was cut off, so a driver
    killed meanwhile would leave a store that nothing opens.
    """
    if database.exists():
        return
    from mlflow.db import upgrade

    write_whole(
        database,
        lambda path: upgrade.main(
            [f"sqlite:///{path}"], prog_name="mlflow db upgrade", standalone_mode=False
        ),
    )
