"""Whole sweeps: what they record, how they resume, and what they make of what goes wrong."""

import json
import os
import re
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from decrop.bundle import load_bundle, verify_bundle
from decrop.evaluation.table import CertificateTable
from decrop.files import read_json, write_json
from decrop.smoothing.execution import resolve_device
from decrop.trial.prepare import load_inputs
from tests.commands import contents, decrop
from tests.mlflow_server.processes import (
    descendants,
    eventually,
    free_port,
    is_alive,
)
from tests.tune.runs import (
    TRACKING_FILES,
    FinishedSweep,
    end_session,
    only_sweep,
    running_on,
    started,
    tracked_runs,
    write_sweep,
)
from tune.cluster import ClusterSize
from tune.directory import SweepDirectory, SweepTrialFolder, TrialState
from tune.results.leaderboard import build_leaderboard
from tune.results.ranking import chosen, ranking
from tune.results.tables import leaderboard_markdown
from tune.space import reference_config
from tune.sweep import RETRIES
from tune.sweep_file import SweepConfig
from tune.worker import SweepJob

TRIALS = [0, 1, 2, 3]

DIVERGING = {"optimizer": "sgd", "learning_rate": 1e9, "weight_decay": 1e9}


def sweep_of(directory: SweepDirectory) -> SweepConfig:
    return SweepConfig.model_validate(directory.read_record().sweep)


def state_of(folder: SweepTrialFolder) -> TrialState:
    state = folder.read_state()
    assert state is not None
    return state


def states_of(directory: SweepDirectory) -> dict[int, str]:
    return {n: state_of(directory.trial(n)).state for n in directory.trial_numbers()}


def outcome_of(folder: SweepTrialFolder) -> tuple[dict[str, Any], list[list[Any]]]:
    """What a trial found, without how long it took."""
    result = folder.read_result()
    assert result is not None
    table = CertificateTable.read_tsv(folder.certificates_path)
    columns = (table.idx, table.label, table.predict, table.radius)
    return {**result, "seconds": None}, [column.tolist() for column in columns]


def test_every_trial_is_recorded_with_its_result(finished: FinishedSweep) -> None:
    directory = finished.directory
    assert states_of(directory) == dict.fromkeys(TRIALS, "complete")
    parameters = []
    for number in TRIALS:
        folder = directory.trial(number)
        record, result = folder.read_record(), folder.read_result()
        assert record is not None and result is not None
        assert (record.number, record.reference) == (number, number == 0)
        assert read_json(folder.config_path) == record.config.model_dump(mode="json")
        assert [report["finished"] for report in folder.read_reports()] == [False, True]
        assert [row["epoch"] for row in folder.read_history()] == [1, 2, 3]
        assert len(CertificateTable.read_tsv(folder.certificates_path).idx) == result["images"]
        assert folder.denoiser_path.exists() and list(folder.figures_path.glob("*.png"))
        if number:
            weights, count = record.config.training.loss_weights, record.config.interpolation.count
            assert record.parameters == {
                "training.loss_weights.cosine": weights.cosine,
                "interpolation.count": count,
            }
        parameters.append(tuple(record.parameters.values()))
    assert len(set(parameters)) == 4


def test_best_is_rank_1_by_held_out_score(finished: FinishedSweep) -> None:
    directory = finished.directory
    scores = list(ranking(directory))
    for number, score in ranking(directory).items():
        result = directory.trial(number).read_result()
        assert result is not None and result["average_certified_radius"] == score
    assert list(ranking(directory).values()) == sorted(ranking(directory).values(), reverse=True)
    board = build_leaderboard(directory, reference_config(sweep_of(directory)).certification.radii)
    assert board.best.number == scores[0] == finished.ran.last_line["best"]["trial"]
    assert [entry.number for entry in board.entries] == sorted(chosen(scores, 2), key=scores.index)
    assert read_json(directory.leaderboard_json_path) == json.loads(json.dumps(asdict(board)))
    assert directory.leaderboard_markdown_path.read_text() == leaderboard_markdown(board)


def test_only_the_chosen_are_certified_on_test(finished: FinishedSweep) -> None:
    directory = finished.directory
    sweep = sweep_of(directory)
    config = reference_config(sweep)
    cache = SweepJob(directory.path, sweep, None, None).cache  # type: ignore[arg-type]
    inputs = load_inputs(config, cache, resolve_device(config.execution.device))
    held_out = inputs.limited.all.subset(inputs.limited.held_out_mask)
    for number in TRIALS:
        result, (indices, *_) = outcome_of(directory.trial(number))
        assert result["split"] == "held_out"
        assert result["hashes"]["certified_images"] == held_out.content_hash()
        assert indices == held_out.indices.tolist()
    finals = chosen(list(ranking(directory)), 2)
    assert len(finals) < len(TRIALS)
    assert sorted(directory.final_numbers()) == sorted(finals)
    certified = [directory.undefended]
    for number in finals:
        folder = directory.final(number)
        assert state_of(folder).state == "complete"
        final, trial = folder.read_record(), directory.trial(number).read_record()
        assert final == trial
        # One report, after the last epoch: nothing is chosen along the way.
        assert [report["finished"] for report in folder.read_reports()] == [True]
        assert folder.denoiser_path.read_bytes() != (
            directory.trial(number).denoiser_path.read_bytes()
        )
        certified.append(folder)
    for folder in certified:
        result, (indices, *_) = outcome_of(folder)
        assert (result["split"], result["images"]) == ("test", 20)
        assert result["hashes"]["certified_images"] == inputs.test.content_hash()
        assert indices == inputs.test.indices.tolist()


def test_the_bundle_repeats_its_certificates(finished: FinishedSweep) -> None:
    bundle = load_bundle(finished.directory.bundle_path)
    assert verify_bundle(bundle) == len(bundle.certificates.idx) == 20
    best = finished.directory.final(finished.ran.last_line["best"]["trial"])
    assert (
        bundle.result.scores.certified_accuracy
        == (finished.ran.last_line["best"]["certified_accuracy"])
    )
    certified = CertificateTable.read_tsv(best.certificates_path)
    assert bundle.certificates.radius.tolist() == certified.radius.tolist()


def test_stage_1_is_computed_once_for_trials_that_share_its_settings(
    finished: FinishedSweep,
) -> None:
    records = [finished.directory.trial(number).read_record() for number in TRIALS]
    counts = Counter(record.config.interpolation.count for record in records if record is not None)
    assert len(counts) == 2 and max(counts.values()) >= 2
    assert finished.ran.last_line["stage1_computed"] == 2


def test_mlflow_has_every_trial_once(finished: FinishedSweep) -> None:
    directory = finished.directory
    finals = {f"final/{number}" for number in directory.final_numbers()}
    runs = tracked_runs(directory)
    assert set(runs) >= {f"trials/{number}" for number in TRIALS} | finals | {"undefended"}
    assert len(runs) == len(TRIALS) + len(finals) + 2
    assert set(runs.values()) == {1}


@contextmanager
def interrupt_between_search_and_finals() -> Iterator[None]:
    """Send this process what Ctrl-C sends, once, where the trials to certify are chosen."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)

    def choose(*given: Any) -> list[int]:
        signal.raise_signal(signal.SIGINT)
        return chosen(*given)

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tune.sweep.chosen", choose)
            yield
    finally:
        signal.signal(signal.SIGINT, handler)


def test_a_resumed_sweep_does_what_was_left_and_nothing_else(
    finished: FinishedSweep, local_ray: ClusterSize, tmp_path: Path
) -> None:
    shutil.copytree(finished.directory.path, tmp_path / "copied")
    directory = SweepDirectory.open(tmp_path / "copied")
    best = finished.ran.last_line["best"]["trial"]
    # Trial 2 was cut off in its last evaluation, trial 3 never began, one final is missing.
    cut_off = directory.trial(2)
    expected = {number: outcome_of(directory.trial(number)) for number in (2, 3)}
    losses = {
        n: [{**row, "seconds": 0} for row in directory.trial(n).read_history()] for n in (2, 3)
    }
    history = cut_off.history_path.read_bytes()
    write_json(cut_off.reports_path, cut_off.read_reports()[:1])
    cut_off.write_state(TrialState(state="running", started=state_of(cut_off).started))
    for path in (cut_off.result_path, cut_off.certificates_path, cut_off.denoiser_path):
        path.unlink()
    for path in (
        *(cut_off.figures_path, directory.trial(3).path, directory.final(best).path),
        *(directory.bundle_path,),
    ):
        shutil.rmtree(path)
    directory.leaderboard_json_path.unlink()
    directory.leaderboard_markdown_path.unlink()
    untouched = [
        *(directory.trial(0).path, directory.trial(1).path, directory.undefended.path),
        *(directory.final(number).path for number in directory.final_numbers()),
    ]
    before = [contents(path) for path in untouched]
    runs = tracked_runs(directory)

    with running_on(local_ray), interrupt_between_search_and_finals():
        interrupted = decrop("resume", directory.path, "--json")
    assert interrupted.code == 130
    assert (
        interrupted.out.splitlines()[-1] == f"stopped; go on with: decrop resume {directory.path}"
    )
    assert "Traceback" not in interrupted.out + interrupted.err
    assert states_of(directory) == dict.fromkeys(TRIALS, "complete")
    assert {n: outcome_of(directory.trial(n)) for n in (2, 3)} == expected
    assert cut_off.history_path.read_bytes() == history
    retrained = directory.trial(3).read_history()
    assert [{**row, "seconds": 0} for row in retrained] == losses[3]
    for number in (0, 1):
        assert f"trial {number} started" not in interrupted.out

    with running_on(local_ray):
        resumed = decrop("resume", directory.path, "--json")
    assert resumed.code == 0, resumed.out + resumed.err
    assert "started" not in resumed.out
    assert [line for line in resumed.out.splitlines() if "certified (" in line] == [
        f"trial {best} certified (1 of 1)"
    ]
    places = {
        "sweep_dir": str(directory.path),
        "bundle": str(directory.bundle_path),
        "report": str(directory.page_path),
    }
    assert resumed.last_line == finished.ran.last_line | places
    assert [contents(path) for path in untouched] == before
    assert tracked_runs(directory) == runs
    assert (
        load_bundle(directory.bundle_path).result.scores.certified_accuracy
        == (finished.ran.last_line["best"]["certified_accuracy"])
    )

    before_all = contents(directory.path)
    with running_on(local_ray):
        again = decrop("resume", directory.path, "--json")
    assert again.code == 0
    assert again.last_line == resumed.last_line
    assert "started" not in again.out and "certified (" not in again.out
    after_all = contents(directory.path)
    assert {name for name in before_all if before_all[name] != after_all[name]} <= TRACKING_FILES
    assert set(after_all) == set(before_all)
    assert tracked_runs(directory) == runs


@pytest.mark.slow
def test_a_final_training_that_failed_is_done_again_by_a_resumption(
    finished: FinishedSweep, local_ray: ClusterSize, tmp_path: Path
) -> None:
    shutil.copytree(finished.directory.path, tmp_path / "copied")
    directory = SweepDirectory.open(tmp_path / "copied")
    first, second = list(ranking(directory))[:2]
    final = directory.final(first)
    for path in (final.path, directory.bundle_path):
        shutil.rmtree(path)
    directory.leaderboard_json_path.unlink()
    final.path.mkdir()
    final.checkpoint_path.mkdir()
    with running_on(local_ray):
        ran = decrop("resume", directory.path, "--json")
    assert ran.code == 0, ran.out + ran.err
    assert f"trial {first} failed: " in ran.out
    assert "Traceback" not in ran.out + ran.err
    failure = state_of(final)
    assert failure.state == "failed" and failure.error is not None
    assert failure.error.startswith("Traceback")
    assert ran.last_line["best"]["trial"] == second
    assert f"Trial {second} of" in (directory.bundle_path / "README.md").read_text()

    final.checkpoint_path.rmdir()
    with running_on(local_ray):
        ran = decrop("resume", directory.path, "--json")
    assert state_of(final).state == "complete"
    assert ran.last_line["best"] == finished.ran.last_line["best"]
    assert f"Trial {first} of" in (directory.bundle_path / "README.md").read_text()


def kill_the_trial(parent: Path, number: int, seconds: float, *, times: int) -> None:
    """Kill the process of a trial each time it runs, as a host that is out of memory would."""

    def killed() -> bool:
        if not any(parent.glob(f"*/trials/{number}/state.json")):
            return False
        found = {
            pid
            for pid, command in descendants(os.getpid()).items()
            if command.startswith("ray::ResourceTrainable") and pid not in dead
        }
        for pid in found:
            os.kill(pid, signal.SIGKILL)
        dead.update(found)
        return bool(found)

    dead: set[int] = set()
    for _ in range(times):
        assert eventually(killed, seconds)


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_sweep_goes_on_whatever_becomes_of_its_trials(
    local_ray: ClusterSize, tmp_path: Path
) -> None:
    file = write_sweep(
        tmp_path,
        search="grid",
        trials=None,
        # Trial 1 diverges, trial 2 forgets all it could, trial 3 does not end by itself.
        trial={"training": {"batch_size": 30}},
        space={
            "training.learning_rate": {"choice": [1.0e9, 0.5, 0.0015]},
            "training.weight_decay": {"choice": [1.0e9], "when": {"training.learning_rate": 1.0e9}},
            "training.optimizer": {"choice": ["sgd"], "when": {"training.learning_rate": 1.0e9}},
            "training.epochs": {
                "choice": [1_000_000],
                "when": {"training.learning_rate": 0.0015},
            },
        },
        pruning={"enabled": True, "grace_evaluations": 1, "reduction_factor": 3},
    )
    out = tmp_path / "sweeps"
    killer = threading.Thread(
        target=kill_the_trial, args=(out, 3, 200), kwargs={"times": 1 + RETRIES}, daemon=True
    )
    killer.start()
    nowhere = f"http://127.0.0.1:{free_port()}"
    with running_on(local_ray):
        ran = decrop("sweep", file, "--out", out, "--tracking-uri", nowhere, "--json")
    killer.join()
    assert ran.code == 0, ran.out + ran.err
    directory = only_sweep(out)
    assert states_of(directory) == {0: "complete", 1: "failed", 2: "pruned", 3: "failed"}
    diverged, killed = (state_of(directory.trial(number)).error for number in (1, 3))
    assert diverged is not None and diverged.startswith("Traceback")
    assert "TrainingDivergedError: the loss is" in diverged.splitlines()[-1]
    assert killed is not None
    assert killed.splitlines()[-1].startswith(f"the trial's process died {1 + RETRIES} times")
    for retry in range(1, 1 + RETRIES):
        assert f"it goes on from its checkpoint (retry {retry} of {RETRIES})" in ran.out
    # An error of the trial's own would come again.
    assert ran.out.count("trial 1 started") == 1
    assert len(directory.trial(2).read_reports()) == 1
    assert not directory.trial(2).result_path.exists()
    assert re.search(r"trial 1 failed \(.*state\.json\); 2 of 4 trials done", ran.out)
    assert "trial 2 pruned; 3 of 4 trials done" in ran.out
    assert "Traceback" not in ran.out + ran.err

    assert directory.final_numbers() == [0]
    assert ran.last_line["best"]["trial"] == ran.last_line["reference"]["trial"] == 0
    summary = read_json(directory.leaderboard_json_path)["summary"]
    assert summary.endswith("The search found nothing better than the reference.")
    # MLflow was away all the time.
    assert ran.last_line["experiment_url"] is None
    (warning,) = [line for line in ran.out.splitlines() if line.startswith("warning:")]
    assert f"decrop sync {directory.path}" in warning


@pytest.mark.slow
def test_failures_in_a_row_end_a_sweep_that_can_be_taken_up_again(
    local_ray: ClusterSize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune.callbacks.FAILURES_IN_A_ROW", 2)
    training = {**DIVERGING, "batch_size": 30}
    file, out = write_sweep(tmp_path, trial={"training": training}), tmp_path / "sweeps"
    with running_on(local_ray):
        ran = decrop("sweep", file, "--out", out)
    directory = only_sweep(out)
    assert ran.code == 1
    *_, error, how = ran.out.splitlines()
    assert error.startswith("error: the last 2 trials failed, 2 of them with: ")
    assert "TrainingDivergedError: the loss is" in error
    assert how == f"once that is mended; go on with: decrop resume {directory.path}"
    assert "no trial has finished yet" in ran.out and "Traceback" not in ran.out + ran.err
    assert states_of(directory) == {0: "failed", 1: "failed"}
    assert not directory.stop_path.exists() and not directory.driver_path.exists()
    audited = decrop("audit", directory.path, "--json")
    assert audited.code == 0, audited.out
    assert "not ended: 2 of 4 trials" in audited.out


@pytest.mark.slow
def test_a_sweep_out_of_time_stops_and_says_how_to_go_on(
    local_ray: ClusterSize, tmp_path: Path
) -> None:
    epochs = {"epochs": 1_000_000, "evaluations": 4}
    file, out = write_sweep(tmp_path, trial={"training": epochs}), tmp_path / "sweeps"
    with running_on(local_ray):
        ran = decrop("sweep", file, "--out", out, "--max-hours", 20 / 3600)
    directory = only_sweep(out)
    assert ran.code == 3, ran.out + ran.err
    last = ran.out.splitlines()[-1]
    assert last == f"stopped after --max-hours; go on with: decrop resume {directory.path}"
    assert "trial 0 stopped; it goes on when the sweep is resumed" in ran.out
    assert states_of(directory) == {0: "running"}
    assert directory.trial(0).checkpoint_path.exists()
    # Whatever was trained is in the checkpoint.
    saved = torch.load(directory.trial(0).checkpoint_path, weights_only=True)
    assert len(directory.trial(0).read_history()) > 0 and saved
    assert not directory.stop_path.exists() and not directory.driver_path.exists()
    assert "trial 1 started" not in ran.out


@pytest.mark.slow
def test_a_finished_sweep_is_extended_and_stays_so(
    finished: FinishedSweep, local_ray: ClusterSize, tmp_path: Path
) -> None:
    shutil.copytree(finished.directory.path, tmp_path / "copied")
    directory = SweepDirectory.open(tmp_path / "copied")
    before = [contents(directory.trial(number).path) for number in TRIALS]
    refused = decrop("resume", directory.path, "--trials", 3)
    assert refused.code == 2 and "the sweep has begun 4 trials already" in refused.err
    assert sweep_of(directory).trials == 4 and directory.leaderboard_json_path.exists()

    with running_on(local_ray):
        ran = decrop("resume", directory.path, "--trials", 6, "--json")
    assert ran.code == 0, ran.out + ran.err
    assert ran.last_line["trials"] == sweep_of(directory).trials == 6
    assert states_of(directory) == dict.fromkeys(range(6), "complete")
    assert [contents(directory.trial(number).path) for number in TRIALS] == before
    assert ran.last_line["best"]["trial"] == next(iter(ranking(directory)))
    assert (
        f"Trial {next(iter(ranking(directory)))} of"
        in (directory.bundle_path / "README.md").read_text()
    )
    board = read_json(directory.leaderboard_json_path)
    assert len(board["held_out"]) == 6
    audited = decrop("audit", directory.path, "--json")
    assert audited.code == 0, audited.out
    assert audited.last_line["trials"] == 6

    with running_on(local_ray):
        again = decrop("resume", directory.path, "--json")
    assert again.code == 0 and "started" not in again.out
    assert again.last_line == ran.last_line


@pytest.mark.slow
def test_a_sweep_of_which_every_trial_fails_names_the_cause(
    local_ray: ClusterSize, tmp_path: Path
) -> None:
    training = {**DIVERGING, "batch_size": 30}
    resources = {"max_concurrent": 2}
    file = write_sweep(tmp_path, trials=2, trial={"training": training}, resources=resources)
    out, nowhere = tmp_path / "sweeps", f"http://127.0.0.1:{free_port()}"
    with running_on(local_ray):
        ran = decrop("sweep", file, "--out", out, "--tracking-uri", nowhere)
    directory = only_sweep(out)
    said = ran.out.splitlines()[-1]
    assert ran.code == 1
    assert said.startswith("error: no trial finished; 2 of 2 failed with: ")
    assert "TrainingDivergedError: the loss is" in said
    assert "try a lower training.learning_rate" in said
    assert "Traceback" not in ran.out + ran.err
    assert states_of(directory) == {0: "failed", 1: "failed"}
    assert not directory.bundle_path.exists() and not directory.final_numbers()
    with running_on(local_ray):
        again = decrop("resume", directory.path, "--tracking-uri", nowhere)
    assert (again.code, again.out.splitlines()[-1]) == (1, said)


@pytest.mark.slow
def test_a_sweep_outlives_ctrl_c(local_ray: ClusterSize, tmp_path: Path) -> None:
    """The driver is interrupted, once, then twice; then the sweep ends in here."""
    file = write_sweep(
        tmp_path,
        search="tpe",
        trials=2,
        trial={"training": {"epochs": 50, "discriminator_epochs": 50, "evaluations": 10}},
        leaderboard={"top": 1},
        resources={"trial": {"cpu": 1}, "max_helpers": 0},
    )
    out = tmp_path / "sweeps"

    def reports() -> int:
        return sum(len(read_json(path)) for path in out.glob("*/trials/*/reports.json"))

    driver = started("sweep", file, "--out", out)
    try:
        assert eventually(lambda: reports() > 0 or driver.poll() is not None, 120)
        below = descendants(driver.pid)
        # As a terminal does, to all processes of the group.
        os.killpg(driver.pid, signal.SIGINT)
        printed, _ = driver.communicate(timeout=60)
    finally:
        end_session(driver.pid)
    directory = only_sweep(out)
    assert driver.returncode == 130, printed
    assert printed.splitlines()[-1] == f"stopped; go on with: decrop resume {directory.path}"
    assert "press Ctrl-C again to stop at once" in printed
    assert "no trial has finished yet" in printed
    assert "Traceback" not in printed
    assert not directory.stop_path.exists()
    assert below and eventually(lambda: not any(map(is_alive, below)), 30)
    assert states_of(directory) == {0: "running"}
    assert directory.trial(0).checkpoint_path.exists()

    done = reports()
    driver = started("resume", directory.path)
    try:
        assert eventually(lambda: reports() > done or driver.poll() is not None, 120)
        below = descendants(driver.pid)
        # As schedulers of clusters announce the end.
        os.kill(driver.pid, signal.SIGTERM)
        assert eventually(directory.stop_path.exists, 10)
        os.kill(driver.pid, signal.SIGINT)
        # Two or three on an idle machine.
        printed, _ = driver.communicate(timeout=20)
        assert driver.returncode == 130, printed
        assert "Traceback" not in printed
        assert eventually(lambda: not any(map(is_alive, below)), 30)
    finally:
        end_session(driver.pid)

    assert "running" in states_of(directory).values()
    assert set(states_of(directory).values()) <= {"running", "complete"}
    history = {n: directory.trial(n).read_history() for n in directory.trial_numbers()}

    with running_on(local_ray):
        ran = decrop("resume", directory.path, "--json")
    assert ran.code == 0, ran.out + ran.err
    assert states_of(directory) == {0: "complete", 1: "complete"}
    assert ran.last_line["trials"] == 2
    for number, rows in history.items():
        # What was trained before is not trained again: the rows tell how long it took.
        assert rows and directory.trial(number).read_history()[: len(rows)] == rows
    for number in (0, 1):
        folder = directory.trial(number)
        assert [row["epoch"] for row in folder.read_history()] == list(range(1, 101))
        assert [report["evaluation"] for report in folder.read_reports()] == list(range(1, 11))
    assert set(tracked_runs(directory).values()) == {1}
