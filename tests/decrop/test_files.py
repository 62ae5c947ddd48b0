"""Files that are whole or absent, and hashes that follow content only."""

import errno
import hashlib
import os
import socket
from pathlib import Path

import pytest
import torch

from decrop.errors import InputError
from decrop.files import (
    is_full_disk,
    read_json,
    require_regular,
    sha256_of_file,
    sha256_of_json,
    sha256_of_tensors,
    write_whole,
)
from tests.cases import cases


def test_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write(temporary: Path) -> None:
        assert temporary.parent == path.parent  # another file system could not rename
        temporary.write_text("ne")
        assert path.read_text() == "old"
        temporary.write_text("new")

    with path.open() as reader:
        write_whole(path, write)
        # Who has begun to read the old file reads it to its end.
        assert reader.read() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("existing", [None, "old"])
def test_failed_write_leaves_nothing_behind(tmp_path: Path, existing: str | None) -> None:
    path = tmp_path / "file"
    if existing is not None:
        path.write_text(existing)

    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, write)
    assert (path.read_text() if path.exists() else None) == existing
    assert len(list(tmp_path.iterdir())) == (existing is not None)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_with_the_path(tmp_path: Path, number: int) -> None:
    path = tmp_path / "file"

    def write(temporary: Path) -> None:
        raise OSError(number, "no room")

    with pytest.raises(OSError, match="No space left on device") as raised:
        write_whole(path, write)
    assert is_full_disk(raised.value) and raised.value.filename == str(path)


def test_unreadable_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json does not exist"):
        read_json(tmp_path / "none.json")
    (tmp_path / "torn.json").write_text('{"a": ')
    with pytest.raises(InputError, match=r"torn\.json is not JSON"):
        read_json(tmp_path / "torn.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"binary\.json is not JSON"):
        read_json(tmp_path / "binary.json")


def test_json_hash_ignores_the_order_of_keys_only() -> None:
    value = {"a": 1, "b": [1, 2]}
    assert sha256_of_json(value) == hashlib.sha256(b'{"a":1,"b":[1,2]}').hexdigest()
    assert sha256_of_json({"b": [1, 2], "a": 1}) == sha256_of_json(value)
    others = [{"a": 1, "b": [2, 1]}, {"a": "1", "b": [1, 2]}, {"a": 1}, {"a": {"b": [1, 2]}}]
    assert len({sha256_of_json(other) for other in [value, *others]}) == 5


def test_tensor_hash_follows_name_type_shape_and_bytes() -> None:
    tensor = torch.arange(6, dtype=torch.float32)
    same = sha256_of_tensors({"a": tensor, "b": tensor})
    assert sha256_of_tensors({"b": tensor.clone(), "a": tensor.clone()}) == same
    last_bit = tensor.clone()
    last_bit[5] = torch.nextafter(last_bit[5], torch.tensor(9.0))
    others = [
        {"a": tensor, "c": tensor},
        {"a": tensor},
        {"a": tensor, "b": last_bit},
        {"a": last_bit, "b": tensor},
        {"a": tensor, "b": tensor.reshape(2, 3)},
        {"a": tensor, "b": tensor.view(torch.int32)},
        {"a": tensor, "b": -tensor},
        {"a": tensor, "b": tensor.double()},
        {},
    ]
    assert len({sha256_of_tensors(other) for other in others} | {same}) == len(others) + 1


@cases("dtype", [torch.bool, torch.uint8, torch.int64, torch.bfloat16, torch.float16])
def test_tensor_hash_takes_every_type_and_layout(dtype: torch.dtype) -> None:
    tensor = torch.tensor([[0, 1, 1], [1, 0, 0]]).to(dtype)
    strided = tensor.t().contiguous().t()
    assert not strided.is_contiguous()
    assert sha256_of_tensors({"a": strided}) == sha256_of_tensors({"a": tensor})
    scalar, empty = tensor[0, 0], tensor[:0]
    assert sha256_of_tensors({"a": scalar}) != sha256_of_tensors({"a": empty})


def special_files(folder: Path) -> dict[str, Path]:
    """Paths of which reading would never end, or never begin."""
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket"))
    (folder / "link").symlink_to("/dev/zero")
    (folder / "loop").symlink_to(folder / "loop")
    return {
        "a pipe": folder / "pipe",
        "cannot be read": folder / "socket",
        "a device": folder / "link",
        "Too many levels": folder / "loop",
        "a folder": folder,
        "embedded null": folder / "\0",
        "File name too long": folder / ("x" * 300),
        "grows while it is read": Path("/proc/self/status"),
    }


@pytest.mark.timeout(10)
def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    for said, path in special_files(tmp_path).items():
        with pytest.raises(InputError, match=said) as error:
            read_json(path)
        assert "\n" not in str(error.value)


def test_files_are_not_read_beyond_a_size(tmp_path: Path) -> None:
    (tmp_path / "file").write_text('"twelve by"')
    assert read_json(tmp_path / "file", most_bytes=11) == "twelve by"
    with pytest.raises(InputError, match="has 11 bytes; at most 10 are read"):
        read_json(tmp_path / "file", most_bytes=10)
    with pytest.raises(InputError, match="the weights has 11 bytes"):
        require_regular(tmp_path / "file", most_bytes=1, blamed="the weights")
    # A file of holes costs a stranger nothing.
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="at most"):
        sha256_of_file(tmp_path / "sparse")
