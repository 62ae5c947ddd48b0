import socket

import pytest

from mlflow_server.address import local_url, require_free
from mlflow_server.errors import InputError
from tests.cases import cases
from tests.mlflow_server.processes import free_port


@cases(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:5000"),
        ("0.0.0.0", "http://127.0.0.1:5000"),
        ("::", "http://[::1]:5000"),
        ("tracking.example", "http://tracking.example:5000"),
    ],
)
def test_url_is_one_that_this_machine_can_open(host: str, url: str) -> None:
    assert local_url(host, 5000) == url


def test_a_free_port_is_accepted_and_stays_free() -> None:
    port = free_port()
    require_free("127.0.0.1", port)
    require_free("127.0.0.1", port)


@pytest.mark.parametrize("listening_on", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_something_listens_on_is_refused(listening_on: str) -> None:
    with socket.socket() as listener:
        listener.bind((listening_on, 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} of 127.0.0.1 is taken"):
            require_free("127.0.0.1", port)


def test_a_port_whose_last_connection_winds_down_is_accepted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            served, _ = listener.accept()
            served.close()
            client.recv(1)
    require_free("127.0.0.1", port)


def test_a_host_of_another_machine_is_refused() -> None:
    # 192.0.2.0/24 is reserved for documentation (RFC 5737): no machine has it.
    with pytest.raises(InputError, match=r"cannot listen on port \d+ of 192\.0\.2\.1"):
        require_free("192.0.2.1", free_port())
