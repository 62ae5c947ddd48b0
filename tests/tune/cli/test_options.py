"""Tables of commands in a terminal."""

from collections import Counter

import pytest
from rich.console import Console

from tune.cli import options
from tune.cli.options import print_tables
from tune.results.tables import TextTable

HEAD = ["", "r = 0", "r = 0.25", "r = 0.5", "r = 0.75", "average radius", "correct", "wrong class"]
ROW = ["Salman", "66.4 (60–72)", "45.2 (39–51)", "23.6 (18–29)", "3.6 (2–7)", "0.263", "66.4", "18"]


def test_words_of_a_table_of_many_columns_stay_whole_in_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "console", Console(width=80))
    head, row = [*HEAD, "abstain", "measured otherwise"], [*ROW, "15.6", "settings unknown"]
    print_tables([TextTable("Certified accuracy.", head, [row])])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    words = " ".join(lines).split()
    assert set(" ".join([*head, *row]).split()) <= set(words)


def test_a_table_without_room_for_its_words_folds_them_and_cuts_nothing_off(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "console", Console(width=80))
    caption, remark = "Certified accuracy of many images.", "estimation samples 300"
    head = [*HEAD, "r = 1.25", "r = 1.5", "abstain", "measured otherwise"]
    row = ["photos-20261130: trial 0", *ROW[1:], "3 (2–7)", "2 (1–5)", "15.6", remark]
    print_tables([TextTable(caption, head, [row])])
    printed = capsys.readouterr().out
    assert letters(printed) == letters("".join([caption, *head, *row]))


def letters(text: str) -> Counter[str]:
    return Counter(filter(str.isalnum, text))
