from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.mlflow_server.objects import ObjectStore
    from tests.mlflow_server.postgres import Postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    from tests.mlflow_server.postgres import running_postgres

    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectStore]:
    from tests.mlflow_server.objects import running_object_store

    with running_object_store() as store:
        yield store
