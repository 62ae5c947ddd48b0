"""The server as a team has it: runs in Postgres, artifacts in an S3 store, behind passwords."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import pytest
from mlflow.entities import ViewType

from tests.mlflow_server import objects
from tests.mlflow_server import postgres as database
from tests.mlflow_server.clients import generated_password, request, signed_in
from tests.mlflow_server.objects import ObjectStore
from tests.mlflow_server.postgres import Postgres
from tests.mlflow_server.processes import (
    command_line,
    descendants,
    environment,
    first_line,
    free_port,
    running,
)

# Servers on several machines share it.
SECRET_KEY = "secret-key-of-the-team"
CERTIFICATES = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t3\t3\t0.51\t1\t0:00:01\n"


@dataclass
class Team:
    folder: Path
    store: str
    objects: ObjectStore

    def start(self, stack: ExitStack, port: int) -> subprocess.Popen[str]:
        """Start one of the team's servers without waiting for it."""
        return stack.enter_context(
            running(
                self.folder,
                port,
                self.store,
                *("--artifacts", f"s3://{objects.BUCKET}/runs"),
                *("--auth", "--auth-folder", str(self.folder / f"{port}.auth")),
                *("--log-file", str(self.folder / f"{port}.log")),
                MLFLOW_FLASK_SERVER_SECRET_KEY=SECRET_KEY,
                **self.objects.environment,
            )
        )

    def log(self, port: int) -> str:
        return (self.folder / f"{port}.log").read_text()


@pytest.fixture(scope="module")
def team(
    tmp_path_factory: pytest.TempPathFactory, postgres: Postgres, object_store: ObjectStore
) -> Iterator[Team]:
    folder = tmp_path_factory.mktemp("team")
    yield Team(folder, postgres.create_database("team"), object_store)


def collect_garbage(store: str, port: int, password: str) -> None:
    """Remove for good what users have deleted, as the README has it."""
    store_without_password = re.sub(r":[^:@]*@", "@", store)
    subprocess.run(
        [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", store_without_password],
        env=environment(
            store,
            PGPASSWORD=database.PASSWORD,
            MLFLOW_TRACKING_URI=f"http://127.0.0.1:{port}",
            MLFLOW_TRACKING_USERNAME="admin",
            MLFLOW_TRACKING_PASSWORD=password,
        ),
        check=True,
        timeout=120,
    )


@pytest.mark.slow
def test_a_team_shares_runs_artifacts_and_users(
    team: Team, postgres: Postgres, tmp_path: Path
) -> None:
    file = tmp_path / "certificates.tsv"
    file.write_text(CERTIFICATES)
    tables_before = postgres.log.count("CREATE TABLE experiments")
    ports = [free_port(), free_port()]
    with ExitStack() as stack:
        servers = [team.start(stack, port) for port in ports]
        for server, port in zip(servers, ports, strict=True):
            assert first_line(server) == f"MLflow is ready at http://127.0.0.1:{port}\n"
        # Two servers that start at once on an empty database create everything once.
        assert postgres.log.count("CREATE TABLE experiments") == tables_before + 1
        created = [port for port in ports if "Created admin user" in team.log(port)]
        assert len(created) == 1
        password = generated_password(first_line(servers[ports.index(created[0])]))

        with signed_in(ports[0], "admin", password) as client:
            experiment = client.create_experiment("denoisers")
            run = client.create_run(experiment).info.run_id
            client.log_param(run, "sigma", "0.25")
            for step in range(3):
                client.log_metric(run, "held_out/average_certified_radius", 0.1 * step, step=step)
            client.log_artifact(run, str(file), "certificates")
        key = f"runs/{experiment}/{run}/artifacts/certificates/certificates.tsv"
        assert team.objects.keys() == [key]

        # The other server shows the same, to the same user only.
        with signed_in(ports[1], "admin", password) as client:
            assert client.get_run(run).data.params == {"sigma": "0.25"}
        read = f"/api/2.0/mlflow/runs/get?run_id={run}"
        assert request(ports[1], "GET", read)[0] == 401
        assert request(ports[1], "GET", read, ("admin", password + "x"))[0] == 401

        user = team.store.split("@")[0]
        secrets = [password, database.PASSWORD, user, objects.SECRET_KEY, SECRET_KEY]
        arguments = [command_line(server.pid) for server in servers]
        arguments += [line for server in servers for line in descendants(server.pid).values()]
        assert len(arguments) >= 8
        for secret in secrets:
            assert not [line for line in arguments if secret in line]
            assert not [port for port in ports if secret in team.log(port)]
        for server in servers:
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0

    port = free_port()
    with ExitStack() as stack:
        server = team.start(stack, port)
        assert first_line(server) == f"MLflow is ready at http://127.0.0.1:{port}\n"
        with signed_in(port, "admin", password) as client:
            history = client.get_metric_history(run, "held_out/average_certified_radius")
            assert [(entry.step, entry.value) for entry in history] == [(0, 0), (1, 0.1), (2, 0.2)]
            back = client.download_artifacts(
                run, "certificates/certificates.tsv", str(tmp_path / "back")
            )
            assert Path(back).read_text() == CERTIFICATES
            client.delete_run(run)
            collect_garbage(team.store, port, password)
            assert team.objects.keys() == []
            assert not client.search_runs([experiment], run_view_type=ViewType.ALL)
        server.send_signal(signal.SIGTERM)
        output, _ = server.communicate(timeout=60)
        # The password of an admin who exists already is not shown again.
        assert output == ""


@pytest.mark.slow
def test_a_wrong_password_of_the_database_is_named_and_not_shown(
    postgres: Postgres, tmp_path: Path
) -> None:
    store = postgres.create_database("refused")
    wrong = store.replace("//mlflow:", "//mlflow:not-")
    with running(
        tmp_path, free_port(), wrong, "--log-file", str(tmp_path / "server.log")
    ) as server:
        output, errors = server.communicate(timeout=100)
    assert (server.returncode, output) == (1, "")
    assert "password authentication failed" in errors
    with pytest.raises(psycopg2.OperationalError):
        psycopg2.connect(wrong.replace("+psycopg2", ""))
    for text in (errors, (tmp_path / "server.log").read_text()):
        assert "not-p%" not in text
        assert database.PASSWORD not in text
