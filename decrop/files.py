"""Files written whole, and content hashes."""

import errno
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from decrop.errors import InputError
from decrop.fence import fence_of

# Enough that whatever could not be written would not have found room either.
_PROBE_BYTES = 1 << 20


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file, then rename it to `path`: readers never see a part.

    Raises:
        LostFolderError: another process writes here now (`decrop.fence`).
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


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: the file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path} does not exist.") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder, not a JSON file.") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}.") from None


def sha256_of_json(value: Any) -> str:
    """Hash a JSON value independently of key order and spacing; return 64 hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_of_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """Hash named tensors by name, dtype, shape and bytes, in name order; return 64 hex digits."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def sha256_of_file(path: Path) -> str:
    """Hash a file's bytes; return 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
