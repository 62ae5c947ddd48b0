"""Faults of `make mutations` can be planted in the code as it is."""

from tests.mutations.__main__ import check
from tests.mutations.faults import FAULTS


def test_every_fault_can_be_planted() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 40
    check(FAULTS)
