"""A trial that was stopped or cut off goes on, and ends as an undisturbed one."""

import dataclasses
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

import decrop.smoothing.backend
import decrop.trial.run
from decrop.cache import ContentCache
from decrop.errors import InputError
from decrop.files import read_json
from decrop.smoothing.sampling import SamplingTask
from decrop.training import denoiser
from decrop.training.hooks import Hooks, TrialStoppedError
from decrop.training.losses import total_loss
from decrop.trial.folder import Report, TrialFolder
from decrop.trial.inputs import TrialInputs
from decrop.trial.result import TrialResult
from decrop.trial.run import run_trial
from tests.cases import slow_but
from tests.decrop.digits_trial import (
    EPOCHS,
    EVALUATIONS,
    FIXED,
    files_in,
    outcome,
    short_trial,
)
from tests.decrop.trial_sessions import PROCEDURES, CutOffError, Session, samples_of

STEPS_AN_EPOCH = 2


@pytest.fixture(scope="module")
def uninterrupted_draws(
    inputs: TrialInputs, cache: ContentCache, tmp_path_factory: pytest.TempPathFactory
) -> list[int]:
    """Draws of each evaluation of `held_out_trial`."""
    session = Session(inputs, cache)
    list(session.run(TrialFolder(tmp_path_factory.mktemp("uninterrupted"))))
    return session.samples


# Cut off and run again


@pytest.mark.parametrize("reports_before", [1, 2, 3])
def test_trial_closed_after_a_report_goes_on_from_there(
    session: Session,
    folder: TrialFolder,
    held_out_trial: TrialFolder,
    uninterrupted_draws: list[int],
    reports_before: int,
) -> None:
    trial = session.run(folder)
    before = list(islice(trial, reports_before))
    trial.close()  # type: ignore[attr-defined]
    after = list(session.run(folder))
    assert after[:reports_before] == before
    assert outcome(folder) == outcome(held_out_trial)
    assert session.epochs_trained == list(range(1, EPOCHS + 1))
    assert session.samples == uninterrupted_draws


def test_a_checkpoint_of_an_earlier_version_is_left_and_the_trial_comes_to_the_same(
    session: Session, folder: TrialFolder, held_out_trial: TrialFolder
) -> None:
    trial = session.run(folder)
    before = list(islice(trial, 2))
    trial.close()  # type: ignore[attr-defined]
    torch.save({"epochs_done": 1, "denoiser": {}}, folder.checkpoint_path)
    with pytest.warns(UserWarning, match="earlier version: training begins anew"):
        assert list(session.run(folder))[:2] == before
    assert outcome(folder) == outcome(held_out_trial)


@pytest.mark.parametrize("kept", [0, 9, -99])
def test_a_torn_checkpoint_is_left_and_the_trial_comes_to_the_same(
    session: Session, folder: TrialFolder, held_out_trial: TrialFolder, kept: int
) -> None:
    trial = session.run(folder)
    before = list(islice(trial, 2))
    trial.close()  # type: ignore[attr-defined]
    content = folder.checkpoint_path.read_bytes()
    folder.checkpoint_path.write_bytes(content[:kept])
    with pytest.warns(UserWarning, match="cannot be read: training begins anew"):
        assert list(session.run(folder))[:2] == before
    assert outcome(folder) == outcome(held_out_trial)


def test_a_checkpoint_that_cannot_be_opened_is_not_taken_for_a_torn_one(
    session: Session, folder: TrialFolder
) -> None:
    folder.checkpoint_path.mkdir(parents=True)
    with pytest.raises(InputError, match="checkpoint"):
        list(session.run(folder))


def test_finished_trial_only_repeats_its_reports(
    inputs: TrialInputs, held_out_trial: TrialFolder, tmp_path: Path
) -> None:
    before = outcome(held_out_trial)
    written = {path: path.stat().st_mtime_ns for path in held_out_trial.path.rglob("*.*")}

    def make_sampler(task: SamplingTask) -> Any:
        raise AssertionError("a finished trial samples nothing")

    empty_cache = ContentCache(tmp_path)
    reports = list(
        run_trial(
            short_trial(),
            inputs,
            held_out_trial,
            empty_cache,
            split="held_out",
            hooks=Hooks(make_sampler=make_sampler),
        )
    )
    assert [dataclasses.asdict(report) for report in reports] == before["reports"]
    assert outcome(held_out_trial) == before
    changed = {p for p, time in written.items() if p.stat().st_mtime_ns != time}
    assert changed <= {held_out_trial.config_path}
    assert not list(tmp_path.iterdir())


# In the first epoch of all, after the optimiser has changed, and in phase 2.
STEPS = [2, 2 * STEPS_AN_EPOCH + 2, 4 * STEPS_AN_EPOCH + 2]


@pytest.mark.parametrize("step", slow_but(STEPS, STEPS[1]))
@pytest.mark.parametrize("saves", ["at evaluations", "after every epoch"])
def test_trial_cut_off_in_the_middle_of_an_epoch_goes_on(
    session: Session,
    folder: TrialFolder,
    held_out_trial: TrialFolder,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    saves: str,
) -> None:
    if saves == "after every epoch":
        monkeypatch.setattr(decrop.training.loop, "SAVE_EVERY_SECONDS", -1.0)
    with monkeypatch.context() as patched:
        patched.setattr(denoiser, "total_loss", raising_at(step, total_loss))
        with pytest.raises(CutOffError):
            list(session.run(folder))
    trained_before = list(session.epochs_trained)
    list(session.run(folder))
    assert outcome(folder) == outcome(held_out_trial)
    finished = (step - 1) // STEPS_AN_EPOCH
    assert trained_before == list(range(1, finished + 1))
    saved = finished if saves == "after every epoch" else {0: 0, 2: 1, 4: 3}[finished]
    assert session.epochs_trained[len(trained_before) :] == list(range(saved + 1, EPOCHS + 1))


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("evaluation", slow_but([1, 2, 3], 2))
def test_trial_cut_off_while_it_certifies_trains_no_epoch_twice(
    session: Session,
    folder: TrialFolder,
    held_out_trial: TrialFolder,
    uninterrupted_draws: list[int],
    evaluation: int,
    call: int,
) -> None:
    session.cut_at = evaluation, call
    with pytest.raises(CutOffError):
        list(session.run(folder))
    assert len(read_json(folder.reports_path) if folder.reports_path.exists() else []) == (
        evaluation - 1
    )
    assert not folder.result_path.exists()
    before, cut_off = session.samples[:-1], session.samples[-1]
    assert (cut_off > 0) == (call > 1)
    list(session.run(folder))
    assert outcome(folder) == outcome(held_out_trial)
    assert files_in(folder.path) == files_in(held_out_trial.path)
    assert session.epochs_trained == list(range(1, EPOCHS + 1))
    after = session.samples[evaluation:]
    # The last certification, which is long, keeps its counts.
    after[0] += cut_off if evaluation == EVALUATIONS else 0
    assert before + after == uninterrupted_draws


def test_a_trial_that_is_asked_to_stop_saves_each_epoch_it_has_trained(
    session: Session, folder: TrialFolder, held_out_trial: TrialFolder
) -> None:
    for epoch in range(1, EPOCHS + 1):
        with pytest.raises(TrialStoppedError):
            list(session.run(folder, should_stop=lambda: True))
        assert len(read_json(folder.history_path)) == epoch
    # All is trained; what is left is the last certification, which it stops as well.
    assert not folder.result_path.exists()
    list(session.run(folder, should_stop=lambda: False))
    assert session.epochs_trained == list(range(1, EPOCHS + 1))
    assert outcome(folder) == outcome(held_out_trial)
    assert files_in(folder.path) == files_in(held_out_trial.path)


@pytest.mark.usefixtures("short_groups")
def test_a_certification_that_is_asked_to_stop_keeps_what_it_has_drawn(
    session: Session, folder: TrialFolder, held_out_trial: TrialFolder
) -> None:
    asked = 0

    def at_the_third_group() -> bool:
        nonlocal asked
        asked += session.epochs_trained[-1:] == [EPOCHS]
        return asked == 4

    # After the last epoch it is asked once more, then after each group of draws.
    with pytest.raises(TrialStoppedError):
        list(session.run(folder, should_stop=at_the_third_group))
    assert folder.counts_path.exists() and not folder.result_path.exists()
    kept = session.samples[-1]
    assert kept > 0
    list(session.run(folder))
    assert kept + session.samples[-1] == samples_of(folder)
    assert session.epochs_trained == list(range(1, EPOCHS + 1))
    assert outcome(folder) == outcome(held_out_trial)


@pytest.mark.usefixtures("short_groups")
@pytest.mark.parametrize("procedure", PROCEDURES)
def test_final_certification_cut_off_half_way_draws_only_the_rest(
    procedure: str, session: Session, folder: TrialFolder, request: pytest.FixtureRequest
) -> None:
    same = request.getfixturevalue("fixed_trial" if procedure == FIXED else "final_trial")
    cuts = (1, 4, 8)
    for number, call in enumerate(cuts, start=1):
        session.cut_at = number, call
        with pytest.raises(CutOffError):
            list(final_training(session, folder, procedure))
        assert folder.counts_path.exists()
    session.cut_at = None
    list(final_training(session, folder, procedure))
    assert outcome(folder) == outcome(same)
    assert files_in(folder.path) == files_in(same.path)
    assert session.samples[0] == 0
    assert all(draws > 0 for draws in session.samples[1:])
    assert sum(session.samples) == samples_of(folder)
    assert session.epochs_trained == list(range(1, EPOCHS + 1))


def final_training(session: Session, folder: TrialFolder, procedure: str) -> Iterator[Report]:
    return run_trial(
        short_trial(procedure),
        session.inputs,
        folder,
        session.cache,
        split="test",
        hooks=session.hooks(),
    )


def test_a_trial_that_goes_on_keeps_the_batch_size_it_found(
    session: Session, folder: TrialFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another probe would find another one, of which counts may depend."""
    probed = iter([3, 5])
    monkeypatch.setattr(
        decrop.smoothing.backend, "probe_chunks_per_batch", lambda task, device: next(probed)
    )
    auto = short_trial("execution.chunks_per_batch=auto")
    session.cut_at = EVALUATIONS, 2
    with pytest.raises(CutOffError):
        list(session.run(folder, auto))
    list(session.run(folder, auto))
    result = TrialResult.from_json(read_json(folder.result_path))
    assert result.chunks_per_batch == 3
    # What was asked for stays what it was.
    assert read_json(folder.config_path) == auto.model_dump(mode="json")
    assert {sampler.chunks_per_batch for sampler in session.samplers} == {3}
    assert sum(session.samples[EVALUATIONS - 1 :]) == samples_of(folder)
    other = TrialFolder(tmp_path / "other")
    list(session.run(other, auto))
    assert TrialResult.from_json(read_json(other.result_path)).chunks_per_batch == 5


def test_trial_cut_off_at_each_of_its_writes_in_turn_goes_on(
    session: Session,
    folder: TrialFolder,
    held_out_trial: TrialFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each attempt ends one file later than the last: just before that file appears."""
    session.cache = ContentCache(tmp_path / "cache")
    replace = Path.replace
    attempts, without_last_report = 0, 0
    while not folder.reports_path.exists() or not read_json(folder.reports_path)[-1]["finished"]:
        attempts += 1
        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", raising_at(attempts, replace))
            try:
                list(session.run(folder))
            except CutOffError:
                # The result comes after everything else, but for the last report.
                if folder.result_path.exists():
                    without_last_report += 1
                    found, expected = outcome(folder), outcome(held_out_trial)
                    assert found.pop("reports") == expected.pop("reports")[:-1]
                    assert found == expected
        assert attempts < 40
    assert without_last_report >= 1
    assert attempts > EVALUATIONS
    assert outcome(folder) == outcome(held_out_trial)
    assert files_in(folder.path) == files_in(held_out_trial.path)


def raising_at(call: int, function: Callable[..., Any]) -> Callable[..., Any]:
    calls = 0

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise CutOffError
        return function(*args, **kwargs)

    return counting
