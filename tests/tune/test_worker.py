"""Trials as a sweep's workers run and record them, without Ray."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from decrop.data.limited import LabelledImages
from decrop.errors import InputError
from decrop.evaluation.table import CertificateTable
from decrop.files import write_json
from decrop.smoothing.execution import resolve_device
from decrop.training.loop import TrainingDivergedError
from decrop.trial.folder import Report
from decrop.trial.inputs import TrialInputs
from decrop.trial.prepare import load_inputs
from tests.cases import cases
from tests.decrop.digits_trial import short_trial
from tests.tune.runs import TINY, write_sweep
from tune.cluster import Claim, Claims
from tune.directory import State, SweepTrialFolder, TrialRecord
from tune.space import reference_config
from tune.sweep_file import load_sweep
from tune.worker import SweepJob, end_trial, run_recorded, shares_inputs, use_claimed

pytestmark = pytest.mark.usefixtures("one_thread")

ALONE = Claims(Claim(1, 0), Claim(1, 0), max_helpers=0, max_concurrent=None)
PARAMETERS = {"training.loss_weights.cosine": 2.5, "interpolation.count": 2}


class OutOfBounds(LabelledImages):
    """Images of a split that must not be read."""

    def __init__(self) -> None:
        pass

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"the test split is read: {name}")


TABLE = {name: TINY[name] for name in ("name", "base", "trial")} | {"search": "rows"}


def job_at(path: Path, inputs: TrialInputs | None = None, **changes: Any) -> SweepJob:
    return SweepJob(path, load_sweep(str(write_sweep(path, **changes))), ALONE, inputs)


def record_of(job: SweepJob, number: int = 1) -> TrialRecord:
    return TrialRecord(
        number=number,
        reference=number == 0,
        parameters=dict(PARAMETERS),
        config=job.config(number, PARAMETERS),
    )


def state_of(folder: SweepTrialFolder) -> State | None:
    state = folder.read_state()
    return None if state is None else state.state


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> TrialInputs:
    job = job_at(tmp_path_factory.mktemp("inputs"))
    config = reference_config(job.sweep)
    return load_inputs(config, job.cache, resolve_device(config.execution.device))


@pytest.fixture
def job(inputs: TrialInputs, tmp_path: Path) -> SweepJob:
    return job_at(tmp_path, inputs)


def test_trial_0_has_the_papers_choices_whatever_is_proposed(job: SweepJob) -> None:
    assert job.config(0, PARAMETERS) == reference_config(job.sweep)
    assert job.config(0, {}).training.loss_weights.cosine == 4.0
    config = job.config(1, PARAMETERS)
    assert config.training.loss_weights.cosine == 2.5
    assert config.interpolation.count == 2
    assert config.training.epochs == 2


WITHOUT_HELD_OUT = {"classifier": {"training": {"trained_on": "without_held_out"}}}
# Trials that train classifiers, and no denoisers.
TRAINING = {
    "denoiser": {"source": "none"},
    "classifier": {"training": {"objective": "gaussian", "trained_on": "limited"}},
}
SMOOTHING = "tests.decrop.denoisers.factories:Smoothing"


def rows(training: dict[str, Any]) -> dict[str, Any]:
    """Return a table of two sigmas whose classifier is trained so."""
    trial = {**TINY["trial"], "classifier": {"training": training}}
    return {"document": {**TABLE, "trial": trial, "rows": {"a": {}, "b": {"sigma": 0.3}}}}


def searched(path: str, domain: dict[str, Any], **trial: Any) -> dict[str, Any]:
    return {"space": {path: domain}, "trial": trial}


@cases(
    ("changes", "shared"),
    [
        (searched("training.learning_rate", {"uniform": [0.001, 0.01]}), True),
        (searched("interpolation.count", {"choice": [1, 2]}), True),
        (searched("classifier.training.epochs", {"int": [1, 2]}, **WITHOUT_HELD_OUT), False),
        # Classifiers that are themselves what is searched for.
        (searched("classifier.training.epochs", {"int": [2, 3]}, **TRAINING), True),
        (
            searched("classifier.training.regularisation_weight", {"uniform": [0, 1]}, **TRAINING),
            True,
        ),
        (
            searched(
                "classifier.training.trained_on",
                {"choice": ["limited", "without_held_out"]},
                **TRAINING,
            ),
            False,
        ),
        (
            searched("classifier.source", {"choice": ["small_cnn", "cifar_resnet20"]}, **TRAINING),
            False,
        ),
        (searched("denoiser.source", {"choice": ["none", "dncnn"]}, **TRAINING), False),
        # A denoiser that is trained already.
        (searched("denoiser.source", {"choice": ["unet", "dncnn"]}), True),
        (searched("denoiser.source", {"choice": ["unet", SMOOTHING]}), False),
        (
            {
                "space": {
                    "denoiser.source": {"choice": ["unet", "ffdnet"]},
                    "denoiser.weights": {"choice": ["w"], "when": {"denoiser.source": "ffdnet"}},
                }
            },
            False,
        ),
        # A classifier that is trained with the trial's noise.
        (rows({"objective": "plain"}), True),
        (rows({"objective": "gaussian", "trained_on": "without_held_out"}), False),
        (rows({"objective": "gaussian", "sigma": 0.25}), True),
        # Rows.
        ({"document": {**TABLE, "rows": {"a": {}, "b": {"training.epochs": 5}}}}, True),
        ({"document": {**TABLE, "rows": {"a": {}, "b": {"limited.fraction": 0.5}}}}, False),
    ],
)
def test_inputs_are_shared_unless_trials_differ_in_them(
    changes: dict[str, Any], shared: bool, tmp_path: Path
) -> None:
    assert shares_inputs(load_sweep(str(write_sweep(tmp_path, **changes)))) is shared


def test_a_trial_without_shared_inputs_loads_its_own(
    inputs: TrialInputs, job: SweepJob, tmp_path: Path
) -> None:
    assert job.inputs_for(job.config(0, {})) is inputs
    own = tmp_path / "own"
    own.mkdir()
    rows = {"few": {}, "many": {"limited.fraction": 0.16}}
    alone = job_at(own, document={**TABLE, "rows": rows})
    loaded = alone.inputs_for(alone.config(1, {"limited.fraction": 0.16}))
    assert len(loaded.limited.all) > len(inputs.limited.all)
    assert loaded.classifier.content_hash() == inputs.classifier.content_hash()


def test_a_search_reads_nothing_of_the_test_split(job: SweepJob, inputs: TrialInputs) -> None:
    hidden = dataclasses.replace(job, inputs=dataclasses.replace(inputs, test=OutOfBounds()))
    folder = hidden.directory.trial(1)
    list(run_recorded(hidden, record_of(hidden), folder, "held_out"))
    assert state_of(folder) == "complete"
    scored = CertificateTable.read_tsv(folder.certificates_path)
    held_out = inputs.limited.all.subset(inputs.limited.held_out_mask)
    assert scored.idx.tolist() == held_out.indices.tolist()
    with pytest.raises(AssertionError, match="test split is read"):
        list(run_recorded(hidden, record_of(hidden), hidden.directory.final(1), "test"))


@pytest.mark.slow
def test_training_on_all_limited_data_ends_where_the_held_out_score_was_best(
    job: SweepJob, inputs: TrialInputs
) -> None:
    stopping = job_at(job.path, inputs, trial={"training": {"early_stopping": True}})
    record = record_of(stopping)
    held_out, final = stopping.directory.trial(1), stopping.directory.final(1)
    reports = list(run_recorded(stopping, record, held_out, "held_out"))
    # As if the first evaluation had been the best.
    documents = [dataclasses.asdict(report) for report in reports]
    documents[-1]["epoch"] = documents[0]["epoch"]
    write_json(held_out.reports_path, documents)
    (report,) = run_recorded(stopping, record, final, "test")
    assert report.epoch == reports[0].epoch == len(final.read_history())
    assert len(held_out.read_history()) > report.epoch


@pytest.mark.slow
def test_a_trial_that_is_closed_goes_on_where_it_was(job: SweepJob, tmp_path: Path) -> None:
    uninterrupted, resumed = job.directory.trial(1), SweepTrialFolder(tmp_path / "resumed")
    expected = list(run_recorded(job, record_of(job), uninterrupted, "held_out"))
    reports: Iterator[Report] = run_recorded(job, record_of(job), resumed, "held_out")
    next(reports)
    reports.close()  # type: ignore[attr-defined]
    state = resumed.read_state()
    assert state is not None and state.state == "running"
    earlier = state.started.replace(year=2020)
    resumed.write_state(state.model_copy(update={"started": earlier}))
    assert list(run_recorded(job, record_of(job), resumed, "held_out")) == expected
    state = resumed.read_state()
    assert state is not None and (state.state, state.started) == ("complete", earlier)


@pytest.mark.filterwarnings("ignore:.*non-finite logits:RuntimeWarning")
def test_a_failure_is_recorded_with_its_traceback(job: SweepJob) -> None:
    diverging = {
        "training.optimizer": "sgd",
        "training.learning_rate": 1e9,
        "training.weight_decay": 1e9,
    }
    record = record_of(job).model_copy(update={"config": job.config(1, diverging)})
    folder = job.directory.trial(1)
    with pytest.raises(TrainingDivergedError):
        list(run_recorded(job, record, folder, "held_out"))
    state = folder.read_state()
    assert state is not None and state.state == "failed" and state.error is not None
    assert state.error.startswith("Traceback")
    code = folder.read_code()
    assert code is not None and code.hardware is not None and code.hardware.startswith("CPU with ")
    assert (
        state.error.strip()
        .splitlines()[-1]
        .startswith("decrop.training.loop.TrainingDivergedError: the loss is")
    )


@pytest.mark.slow
def test_a_trial_computes_on_as_many_threads_as_it_claims(job: SweepJob) -> None:
    for cores, threads in ((2.0, 2), (0.75, 1)):
        claims = dataclasses.replace(ALONE, trial=Claim(cores, 0))
        claiming = dataclasses.replace(job, claims=claims)
        next(run_recorded(claiming, record_of(job), job.directory.trial(threads), "held_out"))
        assert torch.get_num_threads() == threads


def test_a_trial_computes_on_a_gpu_if_it_claims_one_and_never_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = short_trial("execution.device=auto")
    with pytest.raises(
        InputError, match=r"resources\.trial\.gpu = 0\.5, but PyTorch finds no CUDA"
    ):
        use_claimed(Claim(1, 0.5), config)
    use_claimed(Claim(1, 0.5), short_trial("execution.device=cpu"))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    use_claimed(Claim(1, 0), config)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_the_end_of_a_trial_that_never_began_is_written(job: SweepJob) -> None:
    folder = job.directory.trial(7)
    end_trial(folder, "failed", error="it never began")
    state = folder.read_state()
    assert state is not None and state.error == "it never began"
    assert state.ended is not None and state.ended >= state.started
