"""The one process at a time that may run a sweep or remove its files."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import SoftFileLease, Timeout

from decrop.errors import InputError
from tune.directory import SweepDirectory

# A driver that shows no sign of life for this long has died with its machine; the death of a
# process of the same machine is seen at once.
_LEASE_SECONDS = 30.0
_SAME_MACHINE_SECONDS = 2.0
_OTHER_MACHINE_SECONDS = _LEASE_SECONDS + 15.0


@contextmanager
def sole_driver(directory: SweepDirectory) -> Iterator[None]:
    """Be the only driver of a sweep, on any host that sees the directory, for a block.

    Raises:
        InputError: another process that is alive drives it.
    """
    lease = SoftFileLease(directory.driver_path, lease_duration=_LEASE_SECONDS)
    try:
        lease.acquire(timeout=_SAME_MACHINE_SECONDS)
    except Timeout:
        _wait_for_another_machine(lease, directory)
    try:
        yield
    finally:
        lease.release()


def _wait_for_another_machine(lease: SoftFileLease, directory: SweepDirectory) -> None:
    """Outwait a driver that died with its machine."""
    owner = lease.owner
    try:
        if owner is not None and _is_alive_here(owner.pid, owner.hostname):
            raise Timeout(str(directory.driver_path))
        lease.acquire(timeout=_OTHER_MACHINE_SECONDS)
    except Timeout:
        by = "" if owner is None else f" by process {owner.pid} on {owner.hostname}"
        raise InputError(
            f"{directory.path} is in use{by}: its sweep runs. Wait until it ends, or stop it with "
            "Ctrl-C."
        ) from None


def _is_alive_here(pid: int, hostname: str) -> bool:
    # The lease adds the namespace of process numbers after a sign that no name of a host has.
    if hostname.partition("?")[0] != socket.gethostname():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
