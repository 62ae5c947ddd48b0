import socket

import pytest
from mlflow.server.security_utils import is_allowed_host_header, should_block_cors_request

from mlflow_server.errors import InputError
from mlflow_server.hosts import allowed_hosts, allowed_origins, check_allowed_host, check_origin
from tests.cases import cases


@cases(
    ("host", "names", "header", "allowed"),
    [
        ("127.0.0.1", (), "127.0.0.1:5000", True),
        ("127.0.0.1", (), "localhost:8080", True),
        ("127.0.0.1", (), "[::1]:5000", True),
        ("127.0.0.1", (), "10.example.org", False),
        ("127.0.0.1", (), "localhost.example.org", False),
        ("127.0.0.1", (), "192.168.0.7:5000", False),
        ("192.168.0.7", (), "192.168.0.7:5000", True),
        ("fd00::7", (), "[fd00::7]:5000", True),
        ("0.0.0.0", (), f"{socket.gethostname()}:5000", True),
        ("0.0.0.0", (), "192.168.0.7:5000", False),
        ("127.0.0.1", ("mlflow.example.org",), "mlflow.example.org", True),
        ("127.0.0.1", ("mlflow.example.org",), "mlflow.example.org:5000", True),
        ("127.0.0.1", ("mlflow.example.org:443",), "mlflow.example.org:5000", False),
        ("127.0.0.1", ("[fd00::8]",), "[fd00::8]:5000", True),
        ("127.0.0.1", ("*",), "anything.example.org", True),
    ],
)
def test_mlflow_lets_in_what_is_named_and_nothing_else(
    host: str, names: tuple[str, ...], header: str, allowed: bool
) -> None:
    assert is_allowed_host_header(allowed_hosts(host, names), header) is allowed


@cases(
    ("host", "names", "origin", "blocked"),
    [
        ("127.0.0.1", (), "http://127.0.0.1:5000", False),
        ("127.0.0.1", (), "http://localhost:8080", False),
        ("127.0.0.1", (), "http://example.org", True),
        ("192.168.0.7", (), "http://192.168.0.7:5000", False),
        ("192.168.0.7", (), "http://192.168.0.7:8080", True),
        ("fd00::7", (), "http://[fd00::7]:5000", False),
        ("0.0.0.0", (), f"http://{socket.gethostname()}:5000", False),
        ("0.0.0.0", ("mlflow.example.org",), "https://mlflow.example.org", False),
        ("0.0.0.0", ("mlflow.example.org:8443",), "https://mlflow.example.org:8443", False),
        ("0.0.0.0", ("mlflow.example.org:8443",), "https://mlflow.example.org", True),
        ("0.0.0.0", ("*",), "https://mlflow.example.org", True),
        ("0.0.0.0", (), "https://allowed.example.org", False),
    ],
)
def test_only_the_servers_own_pages_and_the_allowed_ones_can_change_runs(
    host: str, names: tuple[str, ...], origin: str, blocked: bool
) -> None:
    origins = allowed_origins(host, 5000, names, ("https://allowed.example.org",))
    assert should_block_cors_request(origin, "POST", origins) is blocked


@cases("name", ["", "https://example.org", "a,b", "a b", "host:port", "fd00::7"])
def test_what_is_no_name_is_refused(name: str) -> None:
    for accepted in ("mlflow.example.org", "10.0.0.7:5000", "[fd00::7]:5000", "*"):
        check_allowed_host(accepted)
    with pytest.raises(InputError, match="--allowed-host"):
        check_allowed_host(name)


@cases("origin", ["*", "example.org", "https://example.org/", "https://a,https://b"])
def test_what_is_no_site_is_refused(origin: str) -> None:
    for accepted in ("https://example.org", "http://example.org:8080"):
        check_origin(accepted)
    with pytest.raises(InputError, match="--cors-origin"):
        check_origin(origin)
