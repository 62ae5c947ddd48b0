import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlflow_server.authentication import keep_admin_password, kept_admin_password, prepare_folder

# MLflow reads its settings of authentication once, on import: a process for each case.
CREATE = """
import os, sys
from pathlib import Path
from mlflow_server.users import create_admin
create_admin(Path(sys.argv[1]))
assert "MLFLOW_AUTH_ADMIN_PASSWORD" not in os.environ
from mlflow.server import auth
assert auth.store.get_user("admin").is_admin
assert auth.store.authenticate_user("admin", sys.argv[2])
"""
# The same as above, and then the password is the one kept in the folder.
CREATE_KEPT = CREATE.replace(
    "sys.argv[2]", "(Path(sys.argv[1]) / 'admin_password').read_text()[6:]"
)


def create(program: str, folder: Path, *arguments: str, **variables: str) -> None:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    created = subprocess.run(
        [sys.executable, "-c", program, str(folder), *arguments],
        env={**inherited, **prepare_folder(folder, "sqlite:///unused.db"), **variables},
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    assert created.returncode == 0, created.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "auth"


@pytest.mark.slow
def test_a_generated_password_waits_to_be_shown_and_lasts(folder: Path) -> None:
    create(CREATE_KEPT, folder)
    kept = kept_admin_password(folder)
    assert kept is not None
    assert kept[0] == "admin"
    assert len(kept[1]) >= 24
    # A start that ended before it was shown shows it the next time, and changes nothing.
    create(CREATE, folder, kept[1])
    assert kept_admin_password(folder) == kept


@pytest.mark.slow
def test_a_given_password_is_kept_nowhere(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    keep_admin_password(folder, "admin", "of a start that ended before there was an admin")
    create(CREATE, folder, "the-given-password", MLFLOW_AUTH_ADMIN_PASSWORD="the-given-password")
    assert kept_admin_password(folder) is None
