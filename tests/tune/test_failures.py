"""The common cause of failures, and a full disk behind them."""

import errno
import traceback

import pytest
from ray.exceptions import RayTaskError
from ray.tune.error import TuneError

from tune.stopping import common_cause, ends_sweep, last_line

DIVERGED = "Traceback (most recent call last):\n  File …\nDivergedError: the loss is {}; lower it\n"


def test_the_last_line_names_the_error() -> None:
    assert last_line(DIVERGED.format("nan")) == "DivergedError: the loss is nan; lower it"


def test_errors_of_one_type_are_one_cause() -> None:
    errors = [DIVERGED.format(loss) for loss in ("nan", "inf", "inf")]
    errors += ["MemoryError: no memory left"] * 2
    assert common_cause(errors) == ("DivergedError: the loss is inf; lower it", 3)


NO_ROOM = OSError(errno.ENOSPC, "No space left on device", "/data/checkpoint.pt")
FOUND = "the disk is full: /data/checkpoint.pt could not be written"


def test_a_full_disk_is_found_where_it_is_met_and_where_ray_hands_it_on() -> None:
    assert ends_sweep(NO_ROOM) == ("disk", FOUND)
    handed_on = RayTaskError("_final", traceback_str="", cause=NO_ROOM)
    assert ends_sweep(handed_on) == ends_sweep(handed_on.as_instanceof_cause()) == ("disk", FOUND)
    # As Ray Tune does with what its callbacks raise.
    with pytest.raises(TuneError) as raised:
        try:
            raise NO_ROOM
        except OSError:
            raise TuneError(traceback.format_exc())  # noqa: B904
    assert ends_sweep(raised.value) == ("disk", FOUND)


def test_a_full_disk_is_told_by_the_error_that_names_a_path() -> None:
    # What closing a file meets that could not be written before.
    with pytest.raises(OSError) as raised:
        try:
            raise NO_ROOM
        finally:
            raise OSError(errno.ENOSPC, "No space left on device")
    assert ends_sweep(raised.value) == ("disk", FOUND)


def test_other_errors_are_no_full_disk() -> None:
    assert ends_sweep(OSError(errno.EACCES, "Permission denied", "/data")) is None
    assert ends_sweep(MemoryError()) is None
