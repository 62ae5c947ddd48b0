import socket

import pytest
from mlflow.server.security_utils import is_allowed_host_header

from mlflow_server.errors import InputError
from mlflow_server.hosts import allowed_hosts, check_allowed_host, check_origin


@pytest.mark.parametrize(
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


@pytest.mark.parametrize("name", ["mlflow.example.org", "10.0.0.7:5000", "[fd00::7]:5000", "*"])
def test_a_name_is_accepted(name: str) -> None:
    check_allowed_host(name)


@pytest.mark.parametrize("name", ["", "https://example.org", "a,b", "a b", "host:port", "fd00::7"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="--allowed-host"):
        check_allowed_host(name)


@pytest.mark.parametrize("origin", ["https://example.org", "http://example.org:8080"])
def test_a_site_is_accepted(origin: str) -> None:
    check_origin(origin)


@pytest.mark.parametrize(
    "origin", ["*", "example.org", "https://example.org/", "https://a,https://b"]
)
def test_what_is_no_site_is_refused(origin: str) -> None:
    with pytest.raises(InputError, match="--cors-origin"):
        check_origin(origin)
