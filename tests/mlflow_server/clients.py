"""Clients of a server under test, with and without credentials."""

import base64
import http.client
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from mlflow import MlflowClient

ANSWER_SECONDS = 30


def generated_password(line: str) -> str:
    """The admin's password in the line by which the command shows it."""
    shown = re.fullmatch(
        r"User 'admin' was created with the password (\S{24,}), not shown again\n", line
    )
    assert shown, line
    return shown[1]


def request(
    port: int,
    method: str,
    path: str,
    credentials: tuple[str, str] | None = None,
    body: str | None = None,
    **headers: str,
) -> tuple[int, str]:
    """Status and text of the answer; the path is sent as it is, dots and all."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    if credentials is not None:
        token = base64.b64encode(":".join(credentials).encode()).decode()
        headers["Authorization"] = f"Basic {token}"
    if body is not None:
        headers.setdefault("Content-Type", "application/json")
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    text = response.read().decode(errors="replace")
    connection.close()
    return response.status, text


@contextmanager
def signed_in(port: int, user: str, password: str) -> Iterator[MlflowClient]:
    """A client that signs in as `user`, as a user's environment would have it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_USERNAME", user)
        patch.setenv("MLFLOW_TRACKING_PASSWORD", password)
        yield MlflowClient(f"http://127.0.0.1:{port}")
