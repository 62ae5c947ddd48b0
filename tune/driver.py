"""The one process at a time that may run a sweep or remove its files."""

import errno
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import SoftFileLease, Timeout

from decrop.errors import InputError
from decrop.files import fence_of, fenced
from tune.directory import SweepDirectory

# A driver that shows no sign of life for this long has died with its machine; the death of a
# process of the same machine is seen at once.
_LEASE_SECONDS = 30.0
_SAME_MACHINE_SECONDS = 2.0
_MARGIN_SECONDS = 15.0
# Of fences that are being removed.
_GONE = ".gone"


@contextmanager
def sole_driver(
    directory: SweepDirectory, *, lease_seconds: float = _LEASE_SECONDS
) -> Iterator[Path]:
    """Be the only driver of a sweep, on any host that sees the directory, for a block.

    A lease tells who is to drive, and can be lost: by a process that is stopped, or whose machine
    is suspended, for longer than it lasts. Therefore drivers and their workers write through a
    fence (`decrop.files`), which the next driver removes.

    Args:
        lease_seconds: after which a driver without a sign of life is taken for dead; the same for
            all drivers.

    Yields:
        the fence, for the workers.

    Raises:
        LostFolderError: another one has taken the directory over, from a block that writes.
    """
    lease = SoftFileLease(directory.driver_path, lease_duration=lease_seconds)
    try:
        lease.acquire(timeout=_SAME_MACHINE_SECONDS)
    except Timeout:
        _wait_for_another_machine(lease, directory)
    assert lease.token is not None  # it was acquired
    fence = directory.fences_path / lease.token
    try:
        with fenced(directory.path, fence):
            _take_over(directory, fence, lease)
            yield fence
    finally:
        # The folder around it stays, for NFS clients remember for a while that there is none.
        shutil.rmtree(fence, ignore_errors=True)
        lease.release()


def _take_over(directory: SweepDirectory, fence: Path, lease: SoftFileLease) -> None:
    """Put up a fence and remove those of all drivers before."""
    fence.mkdir(parents=True, exist_ok=True)
    # A later driver removes this fence only if it was up by then. Where the lease is still this
    # driver's now that it is, each later one is still to come.
    owner = lease.owner
    if owner is None or owner.token != lease.token:
        shutil.rmtree(fence)
    fence_of(directory.record_path)
    for other in directory.fences_path.iterdir():
        if other != fence:
            _remove(other)


def _remove(fence: Path) -> None:
    """Remove a fence for good: until this returns, its processes may put more files in."""
    gone = fence.with_suffix(_GONE)
    if fence != gone:
        fence.rename(gone)
    while gone.exists():
        try:
            shutil.rmtree(gone)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EBUSY):
                raise
            # NFS keeps what a process of this machine has open, and for this machine the folder's
            # old name is gone.
            if all(path.name.startswith(".nfs") for path in gone.iterdir()):
                return


def _wait_for_another_machine(lease: SoftFileLease, directory: SweepDirectory) -> None:
    """Outwait a driver that died with its machine."""
    owner = lease.owner
    try:
        if owner is not None and _is_alive_here(owner.pid, owner.hostname):
            raise Timeout(str(directory.driver_path))
        lease.acquire(timeout=lease.lease_duration + _MARGIN_SECONDS)
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
