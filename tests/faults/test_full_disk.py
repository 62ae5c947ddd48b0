"""A sweep whose disk is full."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from decrop.files import is_full_disk, write_whole
from tests.faults.conftest import Lost
from tests.faults.sweeps import Sweep, must_equal, write_fixed

MEGABYTES = 64


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"mounting is not permitted here: {mounted.stderr.strip()}")
    yield folder
    # At once, or as soon as the last process that has a file open there has ended.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Leave no room on a disk; return the file that takes it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert shutil.disk_usage(disk).free == 0
    return ballast


def test_what_finds_no_room_is_named_whoever_writes_it(small_disk: Path) -> None:
    tensors = {"weight": torch.ones(100_000)}
    path = small_disk / "folder" / "tensors"
    path.parent.mkdir()
    ballast = fill(small_disk)
    for write in (torch.save, save_file):
        with pytest.raises(OSError, match="No space left on device") as raised:
            write_whole(path, lambda temporary, write=write: write(tensors, temporary))
        assert is_full_disk(raised.value) and raised.value.filename == str(path)
        assert list(path.parent.iterdir()) == []
    ballast.unlink()
    write_whole(path, lambda temporary: save_file(tensors, temporary))


def test_the_disk_is_full(tmp_path: Path, small_disk: Path, undisturbed: Sweep, lost: Lost) -> None:
    sweep = Sweep(small_disk / "sweeps")
    with sweep.running("sweep", write_fixed(tmp_path), "--out", sweep.parent):
        sweep.until_report(1)
        ballast = fill(small_disk)
        sweep.end(code=1)
    directory = sweep.directory
    *_, error, how = sweep.printed.splitlines()
    assert error.startswith(f"error: the disk is full: {directory.path}/")
    assert error.endswith(" could not be written")
    assert how == f"once there is room; go on with: decrop resume {directory.path}"
    assert "trial 1 stopped; it goes on when the sweep is resumed" in sweep.printed

    ballast.unlink()
    with sweep.running("resume", directory.path):
        sweep.end()
    assert "trial 0 started" not in sweep.printed
    must_equal(sweep, undisturbed)
    lost("the disk is full, the sweep resumed", sweep)
