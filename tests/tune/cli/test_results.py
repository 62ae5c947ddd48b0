"""The commands that read what a sweep has found, and certify what they miss."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from decrop.files import read_json
from tests.commands import contents, decrop, refused
from tests.tune.results.boards import sweep_with
from tests.tune.runs import TRACKING_FILES, FinishedSweep, running_on, tracked_runs
from tests.tune.sweeps import make_sweep
from tune.cluster import ClusterSize
from tune.directory import SweepDirectory
from tune.results.ranking import ranking


@pytest.fixture
def copied(finished: FinishedSweep, tmp_path: Path) -> SweepDirectory:
    shutil.copytree(finished.directory.path, tmp_path / "copied")
    return SweepDirectory.open(tmp_path / "copied")


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(address: str | None) -> None:
        raise AssertionError("a cluster is started")

    monkeypatch.setattr("tune.sweep.cluster", start)


def test_leaderboard_shows_ranks_and_intervals(finished: FinishedSweep, no_cluster: None) -> None:
    ran = decrop("leaderboard", finished.directory.path, "--json")
    assert ran.code == 0
    assert ran.last_line == json.loads(finished.directory.leaderboard_json_path.read_text())
    words = " ".join(ran.out.split())
    assert "Finished trials by average certified radius on held-out images" in words
    assert "Certified accuracy on test images in %, with exact 95 % intervals" in words
    assert "milliseconds for an image with noise" in words
    assert "reference" in words and "denoiser" in words
    assert ran.last_line["summary"] in words
    ranked = [row["number"] for row in ran.last_line["held_out"]]
    assert ranked == list(ranking(finished.directory))
    for entry in (*ran.last_line["entries"], ran.last_line["undefended"]):
        assert 0 < entry["result"]["seconds"]["noisy_image"] < 1


def test_leaderboard_of_an_unfinished_sweep_shows_what_there_is(
    tmp_path: Path, no_cluster: None
) -> None:
    ran = decrop("leaderboard", make_sweep(tmp_path).path)
    assert (ran.code, ran.out) == (0, "trials so far: none yet; the sweep has not ended\n")
    directory = sweep_with(tmp_path / "begun", {0: 0.3}, {})
    before = contents(directory.path)
    ran = decrop("leaderboard", directory.path, "--json")
    assert ran.code == 0 and "trials so far: 1 complete; the sweep has not ended" in ran.out
    assert "Finished trials by average certified radius on held-out images" in ran.out
    assert ran.last_line["ended"] is False
    assert [row["number"] for row in ran.last_line["held_out"]] == [0]
    assert contents(directory.path) == before
    # What there is not is certified by none but the sweep.
    assert f"`decrop resume {directory.path}`" in refused("leaderboard", directory.path, "--top", 1)


def test_leaderboard_may_be_watched_until_the_sweep_has_ended(
    copied: SweepDirectory, no_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = copied.leaderboard_json_path.rename(copied.path / "later")
    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            board.rename(copied.leaderboard_json_path)

    monkeypatch.setattr("tune.cli.results.time.sleep", wait)
    ran = decrop("leaderboard", copied.path, "--watch", "--json")
    assert ran.code == 0 and waited == [10, 10]
    # Nothing has changed between the first look and the second.
    assert ran.out.count("the sweep has not ended") == 1
    assert ran.last_line == json.loads(copied.leaderboard_json_path.read_text())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--by", "certified_accuracy@0.3"],
            "--by certified_accuracy@0.3: must be one of average_certified_radius, "
            "certified_accuracy@0, certified_accuracy@0.25, certified_accuracy@0.5, "
            "certified_accuracy@0.75, certified_accuracy_area, clean_accuracy, latency, "
            "parameters.",
        ),
        (["--by", "accuracy"], "--by accuracy: must be one of average_certified_radius, "),
    ],
)
def test_leaderboard_refuses_other_metrics(
    finished: FinishedSweep, no_cluster: None, options: list[str], said: str
) -> None:
    assert said in refused("leaderboard", finished.directory.path, *options)


@pytest.mark.parametrize("option", ["--top", "--seeds"])
def test_leaderboard_refuses_numbers_below_1(finished: FinishedSweep, option: str) -> None:
    ran = decrop("leaderboard", finished.directory.path, option, 0)
    assert ran.code == 2 and option in ran.err


def test_seeds_of_a_table_that_has_its_own_are_refused(copied: SweepDirectory) -> None:
    record = read_json(copied.record_path)
    table = {"search": "rows", "rows": {"a": {}}, "space": {}, "trials": None, "seeds": 3}
    record["sweep"] |= table
    copied.record_path.write_text(json.dumps(record))
    said = refused("leaderboard", copied.path, "--seeds", 2)
    assert "--seeds 2: the sweep has trained every row from 3 seeds already" in said
    assert f"`decrop report {copied.path}`" in said


def test_what_is_certified_already_is_shown_by_another_metric(
    finished: FinishedSweep, no_cluster: None
) -> None:
    directory = finished.directory
    before = contents(directory.path)
    best = next(iter(ranking(directory)))
    ran = decrop("leaderboard", directory.path, "--top", 1, "--json")
    assert ran.code == 0, ran.out + ran.err
    assert [entry["number"] for entry in ran.last_line["entries"]] == list(dict.fromkeys([best, 0]))
    assert contents(directory.path) == before


@pytest.mark.slow
def test_missing_finals_and_seeds_are_trained_once(
    copied: SweepDirectory, local_ray: ClusterSize, monkeypatch: pytest.MonkeyPatch
) -> None:
    certified = copied.final_numbers()
    missing = sorted(set(copied.trial_numbers()) - set(certified))
    assert missing
    own = {name: data for name, data in contents(copied.path).items() if name not in TRACKING_FILES}
    runs = tracked_runs(copied)
    arguments = ["leaderboard", copied.path, "--top", 4, "--seeds", 2, "--json"]
    with running_on(local_ray):
        ran = decrop(*arguments)
    assert ran.code == 0, ran.out + ran.err
    first = ran.out.splitlines()[0]
    assert first.startswith("training on the whole limited data, and certifying test images: ")
    for number in missing:
        assert f"trial {number}," in first
    for number in range(4):
        assert f"trial {number} (seed 1)" in first
    trained = [line for line in ran.out.splitlines() if " certified (" in line]
    assert len(trained) == len(missing) + 4
    # What was there stays, the sweep's own leaderboard and bundle too.
    after = contents(copied.path)
    assert {name: after[name] for name in own} == own
    assert copied.final_numbers() == [0, 1, 2, 3]

    for number in range(4):
        final, seeded = copied.final(number), copied.retraining(number, 1)
        assert copied.retraining(number, 0).path == final.path
        assert copied.retrained_seeds(number) == [1]
        record, original = seeded.read_record(), final.read_record()
        assert record is not None and original is not None
        assert record.config == original.config.model_copy(update={"seed": 1})
        results: list[Any] = [folder.read_result() for folder in (final, seeded)]
        assert results[0]["hashes"] == results[1]["hashes"]
        assert results[1]["split"] == "test"
        assert final.denoiser_path.read_bytes() != seeded.denoiser_path.read_bytes()
    new = {f"final/{number}/seeds/1" for number in range(4)}
    new |= {f"final/{number}" for number in missing}
    assert tracked_runs(copied) == runs + type(runs)(new)

    board = ran.last_line
    numbers = list(ranking(copied))
    assert [entry["number"] for entry in board["entries"]] == numbers
    assert [entry["number"] for entry in board["settings"]] == numbers
    for entry in board["settings"]:
        assert entry["seeds"] == [0, 1]
        values = [
            read_json(copied.retraining(entry["number"], seed).result_path)["clean_accuracy"]
            for seed in (0, 1)
        ]
        assert entry["clean_accuracy"]["values"] == values
    said = board["summary"]
    assert "on average over 2 seeds" in said
    assert f"settings of trial {numbers[0]}" in said
    assert said in " ".join(ran.out.split())

    # Nothing is left to do.
    with monkeypatch.context() as patch:
        patch.setattr("tune.sweep.cluster", None)
        again = decrop(*arguments)
    assert again.code == 0 and again.last_line == board
    assert "training on" not in again.out
    assert {k: v for k, v in contents(copied.path).items() if k not in TRACKING_FILES} == {
        k: v for k, v in after.items() if k not in TRACKING_FILES
    }

    # Only what is lost is done again, and what fails does not keep the others from being shown.
    lost = copied.retraining(numbers[0], 1)
    shutil.rmtree(lost.path)
    lost.path.mkdir()
    lost.checkpoint_path.mkdir()
    with running_on(local_ray):
        failed = decrop(*arguments)
    assert failed.code == 0, failed.out + failed.err
    assert f"trial {numbers[0]} (seed 1) failed: " in failed.out
    assert failed.last_line["settings"][0]["seeds"] == [0]
    assert failed.last_line["summary"].startswith(
        (f"Trial {numbers[0]}'s denoiser", f"The difference of trial {numbers[0]}'s denoiser")
    )
    lost.checkpoint_path.rmdir()
    with running_on(local_ray):
        mended = decrop(*arguments)
    assert [line for line in mended.out.splitlines() if " certified (" in line] == [
        f"trial {numbers[0]} (seed 1) certified (1 of 1)"
    ]

    def untimed(document: dict[str, Any]) -> dict[str, Any]:
        return {key: document[key] for key in ("held_out", "settings", "summary")}

    assert untimed(mended.last_line) == untimed(board)
