"""Who gets in: a server that asks for passwords, on SQLite."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from mlflow.exceptions import MlflowException

from tests.cases import cases
from tests.mlflow_server.clients import generated_password, request, signed_in
from tests.mlflow_server.processes import command_line, descendants, first_line, free_port, running
from tests.mlflow_server.routes import routes

PUBLIC = {
    ("GET", "/health"),
    ("GET", "/static-files/1"),
    ("GET", "/api/3.0/mlflow/server-info"),
    ("GET", "/ajax-api/3.0/mlflow/server-info"),
}
USER = ("certifier", "password-of-certifier")
CREATE = "/api/2.0/mlflow/experiments/create"
LIST = "/api/2.0/mlflow/users/list"


@dataclass
class Served:
    process: subprocess.Popen[str]
    folder: Path
    port: int
    password: str

    @property
    def admin(self) -> tuple[str, str]:
        return ("admin", self.password)

    @property
    def secret_key(self) -> str:
        return (self.folder / "runs.db.auth" / "secret_key").read_text()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    port = free_port()
    options = ("--auth", "--log-file", str(folder / "server.log"))
    with running(folder, port, f"sqlite:///{folder}/runs.db", *options) as process:
        assert first_line(process) == f"MLflow is ready at http://127.0.0.1:{port}\n"
        served = Served(process, folder, port, generated_password(first_line(process)))
        create_user = "/api/2.0/mlflow/users/create"
        body = json.dumps({"username": USER[0], "password": USER[1]})
        assert request(port, "POST", create_user, served.admin, body)[0] == 200
        yield served


@pytest.fixture(scope="module")
def all_routes(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    found = routes(tmp_path_factory.mktemp("routes") / "auth")
    paths = {path for _, path in found}
    assert {
        "/api/2.0/mlflow/runs/create",
        "/api/2.0/mlflow/registered-models/create",
        "/api/2.0/mlflow/users/create",
        "/api/2.0/mlflow-artifacts/artifacts/1",
        "/get-artifact",
        "/v1/traces",
        "/graphql",
    } <= paths
    return found


@pytest.mark.slow
@pytest.mark.parametrize("credentials", [None, ("nobody", "a-password-of-nobody")])
def test_every_route_but_the_public_ones_asks_for_credentials(
    served: Served, all_routes: list[tuple[str, str]], credentials: tuple[str, str] | None
) -> None:
    answers = {
        (method, path): request(served.port, method, path, credentials)[0]
        for method, path in all_routes
    }
    assert len(answers) > 400
    assert {route for route, status in answers.items() if status != 401} == PUBLIC


@cases(
    ("method", "path"),
    [
        ("POST", "/api/2.0/mlflow/runs/search"),
        ("GET", "/api/2.0/mlflow/users/list"),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts/1"),
        ("GET", "/api/3.0/mlflow/mcp-servers"),
    ],
)
def test_the_admin_gets_in_with_the_right_password_only(
    served: Served, method: str, path: str
) -> None:
    assert request(served.port, method, path, ("admin", served.password[:-1]))[0] == 401
    assert request(served.port, method, path, served.admin)[0] != 401


def test_another_user_sees_nothing_of_what_the_admin_made(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "certificates.tsv"
    file.write_text("idx\tlabel\n")
    with signed_in(served.port, *served.admin) as admin:
        experiment = admin.create_experiment("private")
        run = admin.create_run(experiment)
        admin.log_artifact(run.info.run_id, str(file))
        admin.create_registered_model("private-model")
    with signed_in(served.port, *USER) as client:
        assert "private" not in [found.name for found in client.search_experiments()]
        assert not list(client.search_registered_models())
        for refused in (
            lambda: client.get_run(run.info.run_id),
            lambda: client.log_metric(run.info.run_id, "loss", 1.0),
            lambda: client.get_registered_model("private-model"),
        ):
            with pytest.raises(MlflowException, match="Permission denied"):
                refused()
    stored = f"/api/2.0/mlflow-artifacts/artifacts/{experiment}/{run.info.run_id}/artifacts"
    name = f"{stored}/certificates.tsv"
    assert request(served.port, "GET", name, served.admin) == (200, "idx\tlabel\n")
    assert request(served.port, "GET", name, USER)[0] == 403


@pytest.mark.parametrize("climb", ["..", "%2e%2e", "%252e%252e", "..%2f..", "1/../.."])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_an_artifact_path_that_leaves_its_folder_is_refused(
    served: Served, method: str, climb: str
) -> None:
    outside = served.folder / "outside.txt"
    outside.write_text("not an artifact")
    before = sorted(served.folder.iterdir())
    path = f"/api/2.0/mlflow-artifacts/artifacts/0/{climb}/{climb}/outside.txt"
    body = "overwritten" if method == "PUT" else None
    status, text = request(served.port, method, path, served.admin, body)
    assert 400 <= status < 500, text
    assert "not an artifact" not in text
    assert outside.read_text() == "not an artifact"
    assert sorted(served.folder.iterdir()) == before


def test_an_absolute_artifact_path_is_refused(served: Served) -> None:
    outside = served.folder / "outside.txt"
    outside.write_text("not an artifact")
    path = f"/api/2.0/mlflow-artifacts/artifacts/{quote(str(outside), safe='')}"
    status, text = request(served.port, "GET", path, served.admin)
    assert 400 <= status < 500
    assert "not an artifact" not in text
    listing = f"/api/2.0/mlflow-artifacts/artifacts?path={quote(str(served.folder), safe='')}"
    status, text = request(served.port, "GET", listing, served.admin)
    assert 400 <= status < 500
    assert "outside.txt" not in text


def test_requests_by_a_name_that_is_not_the_servers_are_refused(served: Served) -> None:
    # A page of 10.example.org could make its own name point to loopback.
    for name in ("evil.example.org", "10.example.org", f"10.0.0.1:{served.port}"):
        status, text = request(served.port, "GET", LIST, served.admin, Host=name)
        assert (status, "Invalid Host" in text) == (403, True)
    for name in ("localhost", f"localhost:{served.port}", "localhost:8080", "[::1]:8080"):
        assert request(served.port, "GET", LIST, served.admin, Host=name)[0] == 200


def test_pages_of_other_sites_cannot_change_runs(served: Served) -> None:
    body = json.dumps({"name": "by-a-page"})
    status, _ = request(
        served.port, "POST", CREATE, served.admin, body, Origin="https://example.org"
    )
    assert status == 403
    origin = f"http://127.0.0.1:{served.port}"
    assert request(served.port, "POST", CREATE, served.admin, body, Origin=origin)[0] == 200


def test_it_listens_on_loopback_alone(served: Served) -> None:
    listening = {
        line.split()[1]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    }
    port = f"{served.port:04X}"
    assert [address for address in listening if address.endswith(f":{port}")] == [
        f"0100007F:{port}"
    ]


def test_no_secret_is_in_arguments_logs_or_runs(served: Served) -> None:
    with signed_in(served.port, *served.admin) as client:
        run = client.create_run(client.create_experiment("secrets"))
        client.log_param(run.info.run_id, "sigma", 0.25)
        recorded = str(client.get_run(run.info.run_id).to_dictionary())
    assert request(served.port, "GET", LIST, ("admin", "wrong"))[0] == 401
    arguments = {served.process.pid: command_line(served.process.pid)}
    arguments |= descendants(served.process.pid)
    assert len(arguments) >= 4
    log = (served.folder / "server.log").read_text()
    assert "Created admin user" in log
    for secret in (served.password, served.secret_key, USER[1]):
        assert len(secret) > 15
        assert not [line for line in arguments.values() if secret in line]
        assert secret not in log
        assert secret not in recorded


def test_the_users_files_are_private(served: Served) -> None:
    folder = served.folder / "runs.db.auth"
    assert folder.stat().st_mode & 0o777 == 0o700
    for name in ("basic_auth.ini", "secret_key"):
        assert (folder / name).stat().st_mode & 0o777 == 0o600
    assert not (folder / "admin_password").exists()
