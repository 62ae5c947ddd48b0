import configparser
from pathlib import Path

import pytest

from mlflow_server.authentication import (
    SECRET_KEY_VARIABLE,
    forget_admin_password,
    keep_admin_password,
    kept_admin_password,
    prepare_folder,
    users_store,
)
from mlflow_server.errors import InputError
from mlflow_server.store import sqlite_file

SQLITE = "sqlite:///runs.db"
POSTGRES = "postgresql+psycopg2://mlflow:100%25@host/runs"


def settings(folder: Path, store: str) -> configparser.SectionProxy:
    """The settings as MLflow reads them."""
    parser = configparser.ConfigParser()
    parser.read(prepare_folder(folder, store)["MLFLOW_AUTH_CONFIG_PATH"])
    return parser["mlflow"]


def test_users_of_sqlite_have_a_private_file_and_others_share_the_database(tmp_path: Path) -> None:
    assert sqlite_file(users_store(SQLITE, tmp_path)) == tmp_path / "users.db"
    assert users_store(POSTGRES, tmp_path) == POSTGRES


@pytest.mark.parametrize("store", [SQLITE, POSTGRES])
def test_mlflow_reads_the_users_database_and_grants_nothing(tmp_path: Path, store: str) -> None:
    folder = tmp_path / "auth"
    assert settings(folder, store)["database_uri"] == users_store(store, folder)
    assert settings(folder, store)["default_permission"] == "NO_PERMISSIONS"
    assert "admin_password" not in settings(folder, store)


def test_only_the_owner_can_read_the_folder_and_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "below" / "auth"
    prepare_folder(folder, POSTGRES)
    keep_admin_password(folder, "admin", "password")
    assert folder.stat().st_mode & 0o777 == 0o700
    files = {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}
    assert files == {"admin_password": 0o600, "basic_auth.ini": 0o600, "secret_key": 0o600}


def test_the_secret_key_is_generated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SECRET_KEY_VARIABLE, raising=False)
    first, second = (
        prepare_folder(tmp_path / name, SQLITE)[SECRET_KEY_VARIABLE] for name in ("one", "two")
    )
    assert len(first) >= 32
    assert first != second
    assert prepare_folder(tmp_path / "one", SQLITE)[SECRET_KEY_VARIABLE] == first


def test_a_secret_key_of_the_environment_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECRET_KEY_VARIABLE, "shared-by-several-servers")
    folder = tmp_path / "auth"
    assert prepare_folder(folder, SQLITE)[SECRET_KEY_VARIABLE] == "shared-by-several-servers"


def test_a_folder_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "auth"
    folder.mkdir()
    folder.chmod(0o750)
    with pytest.raises(InputError, match=r"other users can look into .*chmod 700.*--auth-folder"):
        prepare_folder(folder, SQLITE)
    assert not list(folder.iterdir())


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be written .*--auth-folder"):
        prepare_folder(tmp_path / "file" / "auth", SQLITE)


def test_a_generated_password_is_kept_until_it_is_forgotten(tmp_path: Path) -> None:
    assert kept_admin_password(tmp_path) is None
    keep_admin_password(tmp_path, "admin", "first")
    keep_admin_password(tmp_path, "admin", "second")
    assert kept_admin_password(tmp_path) == ("admin", "second")
    forget_admin_password(tmp_path)
    forget_admin_password(tmp_path)
    assert kept_admin_password(tmp_path) is None
