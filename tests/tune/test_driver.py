"""One driver at a time."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import OwnerRecord, SoftFileLease

from decrop.errors import InputError
from decrop.files import LostFolderError, write_text
from tests.commands import contents
from tests.mlflow_server.processes import eventually
from tests.tune.sweeps import make_sweep
from tune.directory import SweepDirectory
from tune.driver import sole_driver

HOLD = (
    "import sys, time; from pathlib import Path; from tune.directory import SweepDirectory; "
    "from tune.driver import sole_driver\n"
    "with sole_driver(SweepDirectory(Path(sys.argv[1]))): print('drives', flush=True); "
    "time.sleep(600)"
)

# Writes for as long as it can.
WRITE = (
    "import itertools, sys, time; from pathlib import Path\n"
    "from decrop.files import write_text; from tune.directory import SweepDirectory\n"
    "from tune.driver import sole_driver\n"
    "path = Path(sys.argv[1])\n"
    "with sole_driver(SweepDirectory(path), lease_seconds=float(sys.argv[2])):\n"
    "    for number in itertools.count():\n"
    "        write_text(path / 'written', str(number)); time.sleep(0.01)"
)
LEASE_SECONDS = 2.0


@pytest.fixture
def driven(tmp_path: Path) -> Iterator[tuple[SweepDirectory, subprocess.Popen[str]]]:
    directory = make_sweep(tmp_path)
    command = [sys.executable, "-c", HOLD, str(directory.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == "drives\n"
            yield directory, holder
        finally:
            holder.kill()


def test_a_second_driver_is_refused_and_told_by_whom(
    driven: tuple[SweepDirectory, subprocess.Popen[str]],
) -> None:
    directory, holder = driven
    with (
        pytest.raises(InputError, match=f"is in use by process {holder.pid} on"),
        sole_driver(directory),
    ):
        raise AssertionError("there are two drivers")


@pytest.mark.slow
def test_a_driver_that_was_killed_is_followed_at_once(
    driven: tuple[SweepDirectory, subprocess.Popen[str]],
) -> None:
    directory, holder = driven
    holder.kill()
    holder.wait()
    with sole_driver(directory):
        assert directory.driver_path.exists()
    assert eventually(lambda: not directory.driver_path.exists(), 5)


def test_one_driver_follows_another(tmp_path: Path) -> None:
    directory = make_sweep(tmp_path)
    for _ in range(2):
        with sole_driver(directory):
            pass
    assert not directory.driver_path.exists()


@pytest.mark.slow
def test_a_driver_that_was_paused_writes_nothing_once_another_has_followed(tmp_path: Path) -> None:
    directory = make_sweep(tmp_path)
    written = directory.path / "written"
    command = [sys.executable, "-c", WRITE, str(directory.path), str(LEASE_SECONDS)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as paused:
        try:
            assert eventually(lambda: written.exists() and int(written.read_text()) > 3, 60)
            paused.send_signal(signal.SIGSTOP)
            # As another machine sees it: nothing tells that the process is there.
            lease = SoftFileLease(directory.driver_path, lease_duration=LEASE_SECONDS)
            lease.acquire(timeout=60)
            lease.release()
            with sole_driver(directory, lease_seconds=LEASE_SECONDS):
                write_text(written, "the successor's")
                before = contents(directory.path)
                paused.send_signal(signal.SIGCONT)
                _, said = paused.communicate(timeout=60)
                assert contents(directory.path) == before
        finally:
            paused.kill()
    assert paused.returncode == 1
    assert f"LostFolderError: {directory.path} was taken over by another process" in said
    assert not any(directory.fences_path.iterdir())


@pytest.mark.slow
def test_what_a_killed_driver_was_writing_is_removed_by_the_next(
    driven: tuple[SweepDirectory, subprocess.Popen[str]],
) -> None:
    directory, holder = driven
    (fence,) = directory.fences_path.iterdir()
    (fence / ".state.json.0.tmp").write_text("half of")
    holder.kill()
    holder.wait()
    with sole_driver(directory) as own:
        assert list(directory.fences_path.iterdir()) == [own]
        assert list(own.iterdir()) == []


def test_a_driver_that_is_overtaken_before_its_fence_is_up_begins_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = make_sweep(tmp_path)

    class Overtaken(SoftFileLease):
        @property
        def owner(self) -> OwnerRecord | None:
            found = super().owner
            return None if found is None else found._replace(token="another's")

    monkeypatch.setattr("tune.driver.SoftFileLease", Overtaken)
    with pytest.raises(LostFolderError), sole_driver(directory):
        raise AssertionError("it drives beside another")
    assert not any(directory.fences_path.iterdir())
