import sys

import pytest

from mlflow_server.errors import InputError
from mlflow_server.store import check_store, contains_password, hide_password
from tests.cases import cases


@cases(
    ("store", "reason"),
    [
        ("runs.db", "is not a database URI"),
        ("", "is not a database URI"),
        ("postgresql://user@host:port/runs", "is not a database URI"),
        ("oracle://user@host/runs", "not a kind of database that MLflow supports"),
        ("sqlite+nosuchdriver:///runs.db", "unknown driver"),
        ("sqlite://", "lives in memory"),
        ("sqlite:///:memory:", "lives in memory"),
    ],
)
def test_what_mlflow_cannot_open_is_refused(store: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        check_store(store)


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(InputError, match="needs the Python package 'psycopg2'"):
        check_store("postgresql+psycopg2://user@host/runs")


@cases(
    "store",
    [
        "oracle://user:hunter2/x@host/runs",
        "postgresql://user:hunter2@host:port/runs",
        "user:hunter2@host/runs",
        "oracle://host/runs?user=u&password=hunter2",
    ],
)
def test_a_refusal_does_not_show_the_password(store: str) -> None:
    with pytest.raises(InputError) as refusal:
        check_store(store)
    assert "hunter2" not in str(refusal.value)


@cases(
    ("store", "expected"),
    [
        ("sqlite:///runs.db", False),
        ("postgresql://user@host/runs", False),
        ("postgresql://user:hunter2@host/runs", True),
        ("postgresql://host/runs?user=u&password=hunter2", True),
    ],
)
def test_a_password_in_the_uri_is_recognised(store: str, expected: bool) -> None:
    assert contains_password(store) is expected


def test_a_password_is_hidden_plain_and_quoted() -> None:
    store = "postgresql://user:hunter%2F2@host/runs"
    assert hide_password(f"no connection to {store}", store) == (
        "no connection to postgresql://user:***@host/runs"
    )
    assert hide_password("wrong password hunter/2", store) == "wrong password ***"
