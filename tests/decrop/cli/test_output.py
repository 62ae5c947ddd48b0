"""Progress and results as they are printed where there is no terminal, and where there is one."""

import io
import json
from types import SimpleNamespace

import pytest
from rich.console import Console

from decrop.cli import output
from decrop.cli.output import accuracy_cell, accuracy_table, duration, print_json, progress_bars
from decrop.evaluation.accuracy import exact_interval
from decrop.smoothing.collect import CertificationProgress
from decrop.trial.result import Scores
from tests.cases import cases


def scores(accuracy: float) -> Scores:
    return Scores(
        images=40,
        average_certified_radius=0.12345,
        certified_accuracy={"0.0": accuracy, "0.25": 0.0},
        abstention_rate=0.1,
        area_under_curve=0.12,
        radius_error=0.01,
    )


def test_progress_prints_a_line_at_each_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars() as bars:
        show = bars.counted("training, epochs")
        for done in range(31):
            show(done, 30)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"training, epochs: {3 * tenth} of 30" for tenth in range(1, 11)]


def test_bars_count_apart(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars() as bars:
        first, second = bars.counted("first"), bars.counted("second")
        first(2, 2)
        second(1, 2)
    assert capsys.readouterr().out.splitlines() == ["first: 2 of 2", "second: 1 of 2"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock of progress, which stands until `now` is set."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(output, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_a_certification_tells_rate_and_time_left(
    capsys: pytest.CaptureFixture[str], clock: SimpleNamespace
) -> None:
    with progress_bars() as bars:
        show = bars.certification("certifying")
        # At once, after little, and after two minutes, when it turns out that less is to be drawn.
        for seconds, images, draws, expected in (
            (0.0, 0, 0, 1_000_000),
            (6.0, 0, 60_000, 1_000_000),
            (11.0, 0, 110_000, 10_110_000),
            (18.0, 0, 180_000, 10_180_000),
            (120.0, 3, 1_200_000, 6_000_000),
            (150.0, 7, 1_500_000, 2_000_000),
            (160.0, 10, 1_600_000, 1_600_000),
        ):
            clock.now = seconds
            show(CertificationProgress(images, 10, draws, expected))
    assert capsys.readouterr().out.splitlines() == [
        # After ten seconds without a line.
        "certifying: 0 of 10 images, 10,000 samples a second, about 16 min 40 s left",
        "certifying: 3 of 10 images, 10,000 samples a second, about 8 min 0 s left",
        "certifying: 7 of 10 images, 10,000 samples a second, about 50 s left",
        "certifying: 10 of 10 images, 10,000 samples a second",
    ]


def test_a_resumed_certification_tells_the_rate_of_what_it_draws_itself(
    capsys: pytest.CaptureFixture[str], clock: SimpleNamespace
) -> None:
    with progress_bars() as bars:
        show = bars.certification("certifying")
        # A journal answers in no time; what the first group took of the clock is not known.
        for seconds, draws, restored in (
            (0.0, 100_000, 80_000),
            (0.1, 800_000, 780_000),
            (10.1, 900_000, 780_000),
            (20.0, 1_000_000, 781_000),
        ):
            clock.now = seconds
            show(CertificationProgress(0, 10, draws, 2_000_000, restored))
    assert capsys.readouterr().out.splitlines() == [
        "certifying: 0 of 10 images",
        "certifying: 0 of 10 images, 9,901 samples a second, about 1 min 51 s left",
        "certifying: 0 of 10 images, 9,950 samples a second, about 1 min 41 s left",
    ]


@cases(
    ("seconds", "written"),
    [
        (0.4, "0 s"),
        (59.6, "1 min 0 s"),
        (125, "2 min 5 s"),
        (3_599.6, "1 h 0 min"),
        (100_000, "1 d 3 h"),
    ],
)
def test_a_duration_is_in_its_two_largest_units(seconds: float, written: str) -> None:
    assert duration(seconds) == written


def test_bars_are_live_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(output, "console", Console(file=file, force_terminal=True, width=100))
    with progress_bars() as bars:
        show = bars.counted("training, epochs")
        show(1, 4)
        show(4, 4)
        bars.certification("certifying")(CertificationProgress(2, 2, 50, 50))
    assert "training, epochs: 4 of 4" in file.getvalue()
    assert "certifying: 2 of 2 images" in file.getvalue()
    assert "\x1b[" in file.getvalue()


def test_cell_shows_percent_and_exact_interval() -> None:
    low, high = (float(end) for end in exact_interval(11, 40))
    assert accuracy_cell(0.275, 40).plain == f"27.5 ({100 * low:.0f}–{100 * high:.0f})"


def test_table_has_a_row_a_name_and_a_column_a_radius(capsys: pytest.CaptureFixture[str]) -> None:
    table = accuracy_table("Title", {"denoiser": scores(0.525), "no denoiser": scores(0.275)})
    assert [column.header for column in table.columns] == [
        "",
        "r = 0.0",
        "r = 0.25",
        "average radius",
    ]
    Console(width=120).print(table)
    shown = capsys.readouterr().out
    denoiser = next(line for line in shown.splitlines() if "denoiser" in line)
    assert "52.5 (" in denoiser
    assert "0.0 (0–" in denoiser
    assert "0.123" in denoiser


def test_a_table_in_a_narrow_terminal_cuts_nothing_off() -> None:
    shares = {f"{radius}": 0.5 for radius in (0.0, 0.25, 0.5, 0.75)}
    found = Scores(200, 0.287, shares, 0.1, area_under_curve=0.28, radius_error=0.02)
    # Of 80 columns intervals have a line of their own, unbroken.
    for width, whole in ((60, "0.287"), (80, "(0.25–0.33)")):
        narrow = Console(file=io.StringIO(), width=width)
        narrow.print(accuracy_table("Title", {"my-denoiser": found}))
        printed = narrow.file.getvalue()  # type: ignore[attr-defined]
        assert "…" not in printed and whole in printed


def test_json_is_one_line_however_long(capsys: pytest.CaptureFixture[str]) -> None:
    document = {"bundle": "/a/path [bold] " * 50, "σ": 0.25}
    print_json(document)
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == document
