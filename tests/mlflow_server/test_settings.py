from pathlib import Path
from typing import Any

import pytest

from mlflow_server.errors import InputError
from mlflow_server.settings import ServerSettings
from tests.cases import cases

STORE = "sqlite:///runs.db"


def test_a_folder_becomes_absolute_and_a_uri_stays() -> None:
    assert ServerSettings(STORE, "artifacts").artifacts_folder == Path.cwd() / "artifacts"
    assert ServerSettings(STORE, "s3://bucket/runs").artifacts_folder is None


def test_the_representation_does_not_show_the_store() -> None:
    settings = ServerSettings("sqlite:///hunter2.db", "artifacts")
    assert "hunter2" not in repr(settings)


@cases(
    ("given", "said"),
    [
        ({"artifacts": ""}, "artifacts is empty"),
        *(({"port": port}, f"port {port} does not exist") for port in (-1, 0, 65536)),
        *(({"startup_timeout": s}, "startup timeout") for s in (0.0, -1.0, float("nan"))),
    ],
)
def test_what_no_server_can_have_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        ServerSettings(STORE, **{"artifacts": "artifacts", **given})
