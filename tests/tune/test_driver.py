"""One driver at a time."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from decrop.errors import InputError
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
