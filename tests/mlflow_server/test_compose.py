"""The Compose file: its structure, and its server's own command, run without containers."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import mlflow_server
from tests.mlflow_server import objects
from tests.mlflow_server import postgres as database
from tests.mlflow_server.clients import request
from tests.mlflow_server.objects import ObjectStore
from tests.mlflow_server.postgres import Postgres
from tests.mlflow_server.processes import descendants, environment, first_line, free_port

FILE = Path(mlflow_server.__file__).with_name("compose.yaml")
SECRETS = {"database_password", "objects_secret_key", "admin_password", "server_secret_key"}


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load(FILE.read_text())


def script(service: dict[str, Any]) -> str:
    """The service's shell command, as Compose hands it over."""
    assert service["entrypoint"] == ["/bin/sh", "-ec"]
    (text,) = service["command"]
    return str(text).replace("$$", "$")


def test_every_service_is_pinned_watched_and_restarted(compose: Any) -> None:
    assert set(compose["services"]) == {"database", "objects", "server"}
    for service in compose["services"].values():
        assert re.fullmatch(r"[\w./-]+:\d+\.\d+[\w.-]*", service["image"])
        assert service["healthcheck"]["test"][0] == "CMD"
        assert service["restart"] == "unless-stopped"
    base = re.search(
        r"^FROM (\S+)$", compose["services"]["server"]["build"]["dockerfile_inline"], re.M
    )
    assert base and re.fullmatch(r"python:\d+\.\d+\.\d+-[\w-]+", base[1])


def test_only_the_server_is_reached_from_outside_and_by_this_machine_alone(compose: Any) -> None:
    services = compose["services"]
    assert services["server"]["ports"] == ["127.0.0.1:5000:5000"]
    for name in ("database", "objects"):
        assert "ports" not in services[name]
        assert services[name]["networks"] == ["inside"]
    assert compose["networks"]["inside"]["internal"] is True


def test_the_server_waits_for_what_it_needs(compose: Any) -> None:
    conditions = compose["services"]["server"]["depends_on"]
    assert conditions == {
        name: {"condition": "service_healthy"} for name in ("database", "objects")
    }


def test_every_volume_is_declared_and_used(compose: Any) -> None:
    used = [
        mount.split(":")[0]
        for service in compose["services"].values()
        for mount in service["volumes"]
    ]
    assert sorted(used) == sorted(compose["volumes"])


def test_secrets_come_from_the_environment_of_compose_and_go_where_they_are_needed(
    compose: Any,
) -> None:
    assert set(compose["secrets"]) == SECRETS
    for name, source in compose["secrets"].items():
        assert source == {"environment": name.upper()}
    services = compose["services"]
    assert set(services["database"]["secrets"]) == {"database_password"}
    assert set(services["objects"]["secrets"]) == {"objects_secret_key"}
    assert set(services["server"]["secrets"]) == SECRETS


def test_no_secret_is_in_the_file(compose: Any) -> None:
    for service in compose["services"].values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|TOKEN|KEY", name):
                assert str(value).startswith("/run/secrets/")
            assert not re.search(r"://[^/@\s]*:[^/@\s]*@", str(value))
    for name in ("objects", "server"):
        assigned = re.findall(
            r"(\w*(?:PASSWORD|SECRET)\w*)=(\S.*)", script(compose["services"][name])
        )
        assert assigned
        for variable, value in assigned:
            assert re.fullmatch(r'"\$\((secret \w+|cat /run/secrets/\w+)\)"', value), variable


@pytest.mark.parametrize("name", ["objects", "server"])
def test_the_shell_understands_the_commands(compose: Any, name: str) -> None:
    subprocess.run(
        ["/bin/sh", "-n"], input=script(compose["services"][name]), text=True, check=True
    )


@pytest.mark.slow
def test_the_servers_command_starts_it(
    compose: Any, postgres: Postgres, object_store: ObjectStore, tmp_path: Path
) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    given = {name: f"value-of-{name}" for name in SECRETS}
    given["database_password"] = database.PASSWORD
    given["objects_secret_key"] = objects.SECRET_KEY
    for name, value in given.items():
        (secrets / name).write_text(value)
    service = compose["services"]["server"]
    port = free_port()
    command = script(service)
    # In place of the containers' names and places, those of this test.
    for inside, here in {
        "/run/secrets": str(secrets),
        "/var/lib/mlflow": str(tmp_path),
        "--host 0.0.0.0": "--host 127.0.0.1",
        "--port 5000": f"--port {port}",
    }.items():
        assert inside in command
        command = command.replace(inside, here)
    postgres.create_database("mlflow")
    variables = dict(service["environment"])
    place = f"@127.0.0.1:{postgres.port}/"
    store = variables.pop("MLFLOW_BACKEND_STORE_URI").replace("@database/", place)
    assert place in store
    variables |= {
        "MLFLOW_S3_ENDPOINT_URL": object_store.url,
        "ALLOWED_HOST": "mlflow.example.org",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    admin = ("admin", given["admin_password"])
    with subprocess.Popen(
        [*service["entrypoint"], command],
        env=environment(store, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert first_line(server) == f"MLflow is ready at http://127.0.0.1:{port}\n"
            host = {"Host": "mlflow.example.org", "Origin": "https://mlflow.example.org"}
            create = "/api/2.0/mlflow/experiments/create"
            assert request(port, "POST", create, None, '{"name": "a"}', **host)[0] == 401
            assert request(port, "POST", create, admin, '{"name": "a"}', **host)[0] == 200
            artifact = "/api/2.0/mlflow-artifacts/artifacts/1/certificates.tsv"
            assert request(port, "PUT", artifact, admin, "idx\tlabel\n")[0] == 200
            family = descendants(server.pid)
            (web_server,) = [pid for pid, line in family.items() if "-m uvicorn" in line]
            assert given["admin_password"] not in Path(f"/proc/{web_server}/environ").read_text()
            server.send_signal(signal.SIGTERM)
            # A password that was given is not printed.
            assert server.communicate(timeout=60) == ("", "")
        finally:
            server.kill()
    listing = object_store.client().list_objects_v2(Bucket="mlflow")
    assert [entry["Key"] for entry in listing["Contents"]] == ["1/certificates.tsv"]
    log = (tmp_path / "server.log").read_text()
    for secret in given.values():
        assert not [line for line in family.values() if secret in line]
        assert secret not in log
