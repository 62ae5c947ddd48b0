"""The names by which browsers and clients may reach a server, and the pages that may call it."""

import re
import socket

from mlflow_server.errors import InputError

# MLflow compares literally where there is no `*`; elsewhere `[` opens a set of characters.
_LOOPBACK = ("localhost", "localhost:*", "127.0.0.1", "127.0.0.1:*", "[::1]", "[[]::1]:*")
_WILDCARDS = ("0.0.0.0", "::")
_NAME = re.compile(r"(\*|[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d+)?")
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:\d+)?")


def check_allowed_host(name: str) -> None:
    """Check that `name` can be in a request's Host header: `name`, `name:port`, or `*` for all."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"allowed host {name!r} is not a host's name; "
            "give --allowed-host NAME, NAME:PORT, or * for any"
        )


def check_origin(origin: str) -> None:
    """Check that `origin` names the pages of one site, as browsers do: `https://site[:port]`."""
    if not _ORIGIN.fullmatch(origin):
        raise InputError(
            f"origin {origin!r} is not the address of one site; "
            "give --cors-origin https://SITE or https://SITE:PORT, without a path"
        )


def allowed_hosts(host: str, names: tuple[str, ...]) -> list[str]:
    """The patterns that MLflow compares a request's Host header with.

    They are the loopback names, `host` unless it stands for all interfaces (this machine's name
    then), and `names`; each on any port unless it names one. MLflow's own default also lets in
    names such as `10.example.org`, by which a web page could reach a server on loopback.
    """
    patterns = list(_LOOPBACK)
    for name in (_own_name(host), *names):
        patterns.append(name)
        if not _names_a_port(name) and name != "*":
            patterns.append(f"{name.replace('[', '[[]')}:*")
    return list(dict.fromkeys(patterns))


def allowed_origins(
    host: str, port: int, names: tuple[str, ...], origins: tuple[str, ...]
) -> list[str]:
    """The sites from whose pages MLflow takes what changes something, besides those on loopback.

    They are the server's own, directly or behind a proxy on the usual ports, and `origins`. MLflow
    does not know its own: without them its pages work on loopback only.
    """
    own = []
    for name in (_own_name(host), *names):
        if _names_a_port(name):
            own += [f"http://{name}", f"https://{name}"]
        elif name != "*":
            own += [f"http://{name}:{port}", f"http://{name}", f"https://{name}"]
    return list(dict.fromkeys([*own, *origins]))


def _own_name(host: str) -> str:
    name = socket.gethostname() if host in _WILDCARDS else host
    return f"[{name}]" if ":" in name else name


def _names_a_port(name: str) -> bool:
    return re.search(r":\d+$", name) is not None
