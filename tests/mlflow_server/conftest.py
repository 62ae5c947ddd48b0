from collections.abc import Iterator

import pytest

from tests.mlflow_server.objects import ObjectStore, running_object_store
from tests.mlflow_server.postgres import Postgres, running_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectStore]:
    with running_object_store() as store:
        yield store
