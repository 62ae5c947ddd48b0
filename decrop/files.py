"""Files: regular ones of bounded size read, written whole, hashed, and fenced.

A fence keeps a process that was taken for dead from writing where another one goes on.
"""

import errno
import hashlib
import json
import os
import re
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decrop.errors import InputError, RunError

if TYPE_CHECKING:
    import torch

_OBJECT_STORE = re.compile(
    r"(s3[an]?|gs|gcs|hdfs|webhdfs|viewfs|abfss?|adl|az|azure|wasbs?|oss|cos|swift|r2|b2|dbfs):/",
    re.IGNORECASE,
)
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


# Enough that whatever could not be written would not have found room either.
_PROBE_BYTES = 1 << 20
# Of one file. JSON of so many bytes takes twenty times as much memory.
MOST_JSON_BYTES = 32 << 20
MOST_TEXT_BYTES = 4 << 20
MOST_TABLE_BYTES = 256 << 20
MOST_IMAGE_BYTES = 32 << 20
MOST_WEIGHTS_BYTES = 16 << 30
MOST_DATA_BYTES = 1 << 40


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file, then rename it to `path`: readers never see a part.

    Raises:
        LostFolderError: another process writes here now (`decrop.files`).
        OSError: a disk is full, whatever `write` makes of it (`is_full_disk`); others as they are.
    """
    temporary = (fence_of(path) or path.parent) / f".{path.name}.{uuid.uuid4().hex}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        temporary.replace(path)
    except Exception as error:
        fence_of(path)
        # Libraries have errors of their own, which do not tell why a file could not be written.
        if is_full_disk(error) or not _has_room(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def is_full_disk(error: BaseException) -> bool:
    """Tell whether an error says that a disk, or somebody's share of it, has no room left."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` whole, in UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` whole."""
    write_whole(path, lambda temporary: _write_and_sync(temporary, content))


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` whole, as indented JSON."""
    write_text(path, json.dumps(value, indent=1, sort_keys=False) + "\n")


def write_tensors(path: Path, tensors: "Mapping[str, torch.Tensor]") -> None:
    """Write tensors by name to `path` whole, as safetensors."""
    # Imported where it is used, for it imports PyTorch.
    from safetensors.torch import save_file

    # Copies, for tensors that share memory cannot be saved.
    copies = {name: tensor.cpu().clone().contiguous() for name, tensor in tensors.items()}
    write_whole(path, lambda temporary: save_file(copies, temporary))


def refuse_object_store(path: Path | str, named: str) -> None:
    """Raise InputError if a path is an address in an object store, such as s3://BUCKET/NAME.

    Args:
        named: what the error begins with.
    """
    # A `Path` has one slash left of two.
    if _OBJECT_STORE.match(str(path)):
        raise InputError(
            f"{named}: is in an object store, which can neither rename a file whole nor lock one; "
            "give a path of a file system that all machines see, and copy from or to the store "
            'before and after (tune/README.md, "Object stores").'
        )


def open_regular(path: Path, *, most_bytes: int, blamed: str | None = None) -> BufferedReader:
    """Open a regular file to read; whatever else has a path, such as a pipe or device, is refused.

    Args:
        path: of the file; links are followed.
        blamed: what an error begins with, if not the path.

    Raises:
        InputError: the file is missing, unreadable, not regular, or longer.
    """
    named = blamed or str(path)
    try:
        # Opening a pipe would wait for its other end.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        refuse_object_store(path, named)
        raise InputError(f"{named} does not exist.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{named} cannot be read: {_reason(error)}.") from None
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_size <= most_bytes:
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{named} is {_kind(found.st_mode)}, not a regular file.")
    raise InputError(
        f"{named} has {found.st_size:,} bytes; at most {most_bytes:,} are read of such a file."
    )


def require_regular(path: Path, *, most_bytes: int, blamed: str | None = None) -> None:
    """Raise InputError unless a library may be given the path to read (see `open_regular`)."""
    open_regular(path, most_bytes=most_bytes, blamed=blamed).close()


def read_bytes(path: Path, *, most_bytes: int, blamed: str | None = None) -> bytes:
    """Return a file's content (see `open_regular`)."""
    with open_regular(path, most_bytes=most_bytes, blamed=blamed) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            content = file.read(size + 1)
        except OSError as error:
            raise InputError(f"{blamed or path} cannot be read: {_reason(error)}.") from None
    # The kernel's own files are regular and empty, until they are read.
    if len(content) > size:
        raise InputError(f"{blamed or path} grows while it is read.")
    return content


def read_text(path: Path, *, most_bytes: int = MOST_TEXT_BYTES) -> str:
    """Return a file's text, UTF-8 (see `open_regular`)."""
    try:
        return read_bytes(path, most_bytes=most_bytes).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: {error}.") from None


def read_json(path: Path, *, most_bytes: int = MOST_JSON_BYTES) -> Any:
    """Read a JSON file."""
    content = read_bytes(path, most_bytes=most_bytes)
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}.") from None


def sha256_of_json(value: Any) -> str:
    """Hash a JSON value independently of key order and spacing; return 64 hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_of_tensors(tensors: "Mapping[str, torch.Tensor]") -> str:
    """Hash named tensors by name, dtype, shape and bytes, in name order; return 64 hex digits."""
    # Imported where it is used: it takes seconds, which most commands can do without.
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def sha256_of_file(path: Path) -> str:
    """Hash a file's bytes (see `open_regular`); return 64 hex digits."""
    with open_regular(path, most_bytes=MOST_WEIGHTS_BYTES) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")


def _reason(error: Exception) -> str:
    # A socket cannot be opened at all; a path with a zero byte is no path.
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _has_room(path: Path) -> bool:
    probe = path.with_name(f".{path.name}.{uuid.uuid4().hex}.probe")
    try:
        _write_and_sync(probe, bytes(_PROBE_BYTES))
    except OSError as error:
        return not is_full_disk(error)
    finally:
        probe.unlink(missing_ok=True)
    return True


def _write_and_sync(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object, {} if the file is absent."""
    if not path.exists():
        return {}
    document = read_json(path)
    if not isinstance(document, dict):
        raise InputError(f"{path} is not a JSON object; restore or delete it.")
    return document


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read a JSON list of objects, [] if the file is absent."""
    if not path.exists():
        return []
    rows = read_json(path)
    if not (isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
        raise InputError(f"{path} is not a JSON list of objects; restore or delete it.")
    return rows
