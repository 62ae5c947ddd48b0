"""Queries are counted before they are sent, by all processes together."""

import subprocess
import sys
from pathlib import Path

import pytest

from decrop.black_box import QueryBudgetError, QueryLedger, Spent

BUDGET = 60
SPENDING = f"""
import sys
from pathlib import Path
from decrop.black_box import QueryBudgetError, QueryLedger
ledger = QueryLedger(Path(sys.argv[1]), budget={BUDGET})
print(flush=True)
sys.stdin.readline()
sent = 0
try:
    while True:
        ledger.reserve(1)
        sent += 1
        ledger.answered(1)
except QueryBudgetError:
    print(sent)
"""


@pytest.mark.slow
def test_processes_together_keep_to_a_budget(tmp_path: Path) -> None:
    path = tmp_path / "queries"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SPENDING, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "\n"
    outputs = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        outputs.append(int(process.communicate(timeout=60)[0]))
    assert sum(outputs) == BUDGET
    spent = QueryLedger(path).spent()
    assert (spent.asked, spent.answered, spent.requests) == (BUDGET,) * 3


@pytest.mark.parametrize("file", [True, False])
def test_what_was_not_sent_is_given_back(file: bool, tmp_path: Path) -> None:
    ledger = QueryLedger(tmp_path / "folder" / "queries" if file else None, budget=10)
    ledger.reserve(8)
    with pytest.raises(QueryBudgetError, match="8 of 10 images are spent"):
        ledger.reserve(3)
    ledger.give_back(8)
    ledger.reserve(10, retry=True)
    assert ledger.left() == 0
    spent = ledger.spent()
    assert (spent.asked, spent.answered, spent.requests, spent.retries) == (10, 0, 2, 1)


def test_send_times_are_handed_out_in_turn(tmp_path: Path) -> None:
    ledgers = [QueryLedger(tmp_path / "queries", requests_per_second=2) for _ in range(2)]
    waits = [ledgers[number % 2].reserve(1) for number in range(4)]
    for number, wait in enumerate(waits):
        assert number / 2 - 0.4 <= wait <= number / 2
    assert QueryLedger(None).reserve(5) == 0
    assert QueryLedger(None).spent() == Spent()
