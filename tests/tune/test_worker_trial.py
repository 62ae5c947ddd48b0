"""The adapter between reports of a trial and steps of Ray Tune, without Ray Tune."""

import math
from typing import Any

import pytest
import torch

from decrop.smoothing.execution import resolve_device
from decrop.trial.prepare import load_inputs
from tests.tune.runs import write_sweep
from tune.cluster import Claim, Claims
from tune.directory import SweepDirectory
from tune.scheduler import EVALUATION
from tune.space import reference_config
from tune.sweep_file import load_sweep
from tune.worker import (
    CROWDED_OUT,
    FAILED,
    METRIC,
    STOPPED,
    SweepJob,
    SweepTrial,
    with_gpu,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def proposal(number: int, cosine: float = 4.0) -> dict[str, Any]:
    """What the searcher gives a trial."""
    return {
        "number": number,
        "reference": number == 0,
        "parameters": {"training.loss_weights.cosine": cosine, "interpolation.count": 1},
    }


def trial_of(job: SweepJob, proposed: dict[str, Any]) -> SweepTrial:
    class OfThisJob(SweepTrial):
        def setup(self, config: dict[str, Any]) -> None:  # type: ignore[override]
            super().setup(config, job)

    return OfThisJob(config=proposed)


def states(directory: SweepDirectory) -> dict[int, str]:
    read = {n: directory.trial(n).read_state() for n in directory.trial_numbers()}
    return {number: state.state for number, state in read.items() if state is not None}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> SweepJob:
    path = tmp_path_factory.mktemp("job")
    sweep = load_sweep(str(write_sweep(path)))
    claims = Claims(Claim(1, 0), Claim(1, 0), max_helpers=0, max_concurrent=None)
    config = reference_config(sweep)
    job = SweepJob(path, sweep, claims, None)
    inputs = load_inputs(config, job.cache, resolve_device(config.execution.device))
    return SweepJob(path, sweep, claims, inputs)


@pytest.mark.slow
def test_a_process_runs_one_trial_after_another(job: SweepJob) -> None:
    trial = trial_of(job, proposal(0))
    first, last = trial.step(), trial.step()
    assert (first["done"], first["finished"], last["done"], last["finished"]) == (
        *(False, False),
        *(True, True),
    )
    assert (first[EVALUATION], last[EVALUATION]) == (1, 2)
    result = job.directory.trial(0).read_result()
    assert result is not None and last[METRIC] == result["average_certified_radius"]
    assert states(job.directory) == {0: "complete"}

    assert trial.reset_config(proposal(1, cosine=2.5))
    assert trial.step()[EVALUATION] == 1
    assert states(job.directory) == {0: "complete", 1: "running"}

    # The second trial is stopped where it is, and can be taken up again.
    assert trial.reset_config(proposal(2))
    trial.step()
    trial.cleanup()
    assert states(job.directory) == {0: "complete", 1: "running", 2: "running"}
    again = trial_of(job, proposal(1, cosine=2.5))
    assert again.step()["finished"] is False
    assert again.step()["finished"] is True
    assert states(job.directory) == {0: "complete", 1: "complete", 2: "running"}


@pytest.mark.slow
def test_a_trial_saves_its_state_and_ends_when_the_sweep_is_to_stop(job: SweepJob) -> None:
    folder, never_begun = job.directory.trial(5), job.directory.trial(6)
    trial = trial_of(job, proposal(5))
    assert trial.step()["finished"] is False
    epochs = len(folder.read_history())
    job.directory.stop_path.touch()
    try:
        ended = trial.step()
        # One more epoch, not all of those before the next evaluation.
        assert (ended[STOPPED], ended["done"], ended["finished"]) == (True, True, False)
        assert len(folder.read_history()) == epochs + 1
        assert folder.checkpoint_path.exists()
        assert len(folder.read_reports()) == 1
        assert states(job.directory)[5] == "running"
        assert trial.reset_config(proposal(6))
        assert trial.step()[STOPPED]
        assert not never_begun.path.exists()
    finally:
        job.directory.stop_path.unlink()
    again = trial_of(job, proposal(5))
    assert [again.step()["finished"], again.step()["finished"]] == [False, True]
    assert states(job.directory)[5] == "complete"


def test_a_trial_that_fails_says_so_before_it_raises(
    job: SweepJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: Any, **__: Any) -> None:
        raise MemoryError("no memory left")

    monkeypatch.setattr("tune.worker.run_trial", no_memory)
    trial = trial_of(job, proposal(7))
    said = trial.step()
    assert (said[FAILED], said["done"], said["finished"]) == (True, False, False)
    assert math.isnan(said[METRIC])
    state = job.directory.trial(7).read_state()
    assert state is not None and state.state == "failed"
    assert state.error is not None and state.error.endswith("MemoryError: no memory left\n")
    with pytest.raises(MemoryError, match="no memory left"):
        trial.step()
    # The next trial of the same process is not blamed for it.
    monkeypatch.undo()
    assert trial.reset_config(proposal(8))
    assert trial.step()[EVALUATION] == 1


@pytest.mark.parametrize(("gpu", "why"), [(0.5, CROWDED_OUT), (1, FAILED), (0, FAILED)])
def test_a_trial_without_memory_may_be_taken_up_again_if_others_have_it(
    job: SweepJob, monkeypatch: pytest.MonkeyPatch, gpu: float, why: str
) -> None:
    def no_memory(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 6.25 GiB.")

    monkeypatch.setattr("tune.worker.run_trial", no_memory)
    monkeypatch.setattr("tune.worker.use_claimed", lambda claim, config: None)
    trial = trial_of(with_gpu(job, gpu), proposal(9))
    said = trial.step()
    assert said[why] is True and len({CROWDED_OUT, FAILED} & set(said)) == 1
    state = job.directory.trial(9).read_state()
    assert state is not None and state.state == ("running" if why == CROWDED_OUT else "failed")
    if why == FAILED:
        assert state.error is not None and state.error.strip().splitlines()[-1] == (
            "out of memory: it does not fit even alone; lower training.batch_size, or "
            "execution.chunk_size"
        )
    with pytest.raises(torch.OutOfMemoryError):
        trial.step()
