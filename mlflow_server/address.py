"""The address a server listens on."""

import errno
import socket

from mlflow_server.errors import InputError

_LOOPBACK_OF_WILDCARD = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def local_url(host: str, port: int) -> str:
    """The URL at which this machine reaches a server that listens on `host` and `port`."""
    reachable = _LOOPBACK_OF_WILDCARD.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def require_free(host: str, port: int) -> None:
    """Check that a server could listen on `host` and `port` now."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise InputError(
            f"host {host!r} is not known ({error.strerror}); "
            "give --host an address of this machine, such as 127.0.0.1"
        ) from error
    for family, kind, protocol, _, address in addresses:
        with socket.socket(family, kind, protocol) as probe:
            # A port whose last connections are still winding down is free for a server.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
            except OSError as error:
                raise InputError(_why_not(host, port, error)) from error


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {host} is taken; "
            "stop what listens there or choose another port with --port"
        )
    return (
        f"cannot listen on port {port} of {host} ({error.strerror}); give --host an address of "
        "this machine, such as 127.0.0.1, and --port a number that this user may use"
    )
