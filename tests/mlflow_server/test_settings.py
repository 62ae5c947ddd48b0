from pathlib import Path

import pytest

from mlflow_server.errors import InputError
from mlflow_server.settings import ServerSettings

STORE = "sqlite:///runs.db"


def test_the_default_address_is_loopback() -> None:
    assert ServerSettings(STORE, "artifacts").host == "127.0.0.1"


def test_a_folder_becomes_absolute_and_a_uri_stays() -> None:
    assert ServerSettings(STORE, "artifacts").artifacts_folder == Path.cwd() / "artifacts"
    assert ServerSettings(STORE, "s3://bucket/runs").artifacts_folder is None


def test_the_representation_does_not_show_the_store() -> None:
    settings = ServerSettings("sqlite:///hunter2.db", "artifacts")
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize("port", [-1, 0, 65536])
def test_an_impossible_port_is_refused(port: int) -> None:
    with pytest.raises(InputError, match=rf"port {port} does not exist"):
        ServerSettings(STORE, "artifacts", port=port)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_a_startup_timeout_without_time_is_refused(seconds: float) -> None:
    with pytest.raises(InputError, match="startup timeout"):
        ServerSettings(STORE, "artifacts", startup_timeout=seconds)


def test_empty_artifacts_are_refused() -> None:
    with pytest.raises(InputError, match="artifacts is empty"):
        ServerSettings(STORE, "")


def test_an_unusable_store_is_refused() -> None:
    with pytest.raises(InputError, match="not a database URI"):
        ServerSettings("runs.db", "artifacts")
