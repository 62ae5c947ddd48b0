"""Fences: a process that was taken for dead writes nothing more where another one goes on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from decrop.errors import RunError

# Folders that this process writes, and the folder of each in which its new files begin.
_fences: dict[Path, Path] = {}


class LostFolderError(RunError):
    """Another process writes a folder now that this one was writing."""


@contextmanager
def fenced(folder: Path, fence: Path | None) -> Iterator[None]:
    """Write below a folder, in a block and in this process, only while its fence is there.

    New files are filled in the fence, a folder on the same file system, and renamed to where they
    belong. To take over is to remove the fence of the process before. A rename then finds nothing
    to rename, whenever it comes: no clock is asked, and between a check and what it allows no time
    can pass, neither that of a stopped process nor that of a suspended machine. It holds on every
    file system whose renames are atomic, NFS too.

    Args:
        folder: of which all that is below is fenced.
        fence: that exists; None fences nothing.
    """
    folder = folder.absolute()
    before = _fences.get(folder)
    if fence is not None:
        _fences[folder] = fence.absolute()
    try:
        yield
    finally:
        if before is None:
            _fences.pop(folder, None)
        else:
            _fences[folder] = before


def fence_of(path: Path) -> Path | None:
    """Return the fence in which a file begins, None where there is none.

    Raises:
        LostFolderError: the fence was removed.
    """
    folder = next((parent for parent in path.absolute().parents if parent in _fences), None)
    if folder is None:
        return None
    fence = _fences[folder]
    if not fence.is_dir():
        raise LostFolderError(
            f"{folder} was taken over by another process while this one was paused or cut off from "
            "it; this one has ended and left everything as it is. See how the other one goes on."
        )
    return fence
