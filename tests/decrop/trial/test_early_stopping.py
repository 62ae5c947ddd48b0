"""Early stopping keeps the best held-out weights, and ends the training on all data there."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

import decrop.trial.certify
import decrop.trial.run
import decrop.trial.several_sigmas
from decrop.cache import ContentCache
from decrop.cli.main import run
from decrop.files import read_json
from decrop.networks.denoised import DenoisedClassifier
from decrop.training.hooks import Hooks
from decrop.trial.certify import CertificationTask
from decrop.trial.folder import Report, TrialFolder
from decrop.trial.inputs import TrialInputs
from decrop.trial.result import Scores
from decrop.trial.run import run_trial, stopping_epoch
from tests.cases import slow_but
from tests.decrop.digits_trial import (
    EPOCHS,
    PRUNING_SAMPLES,
    SHORT,
    outcome,
    sample_nothing,
    short_trial,
)
from tests.decrop.tiny import same

STOPPING = short_trial("training.early_stopping=true")
# Epochs after which a trial of three evaluations is scored.
SCORED_EPOCHS = (1, 3, 5)
LAST_SCORE = 0.7

pytestmark = pytest.mark.usefixtures("plain_figures")


@pytest.fixture
def plain_figures(final_trial: TrialFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing, once the trial that tests share has its figures."""
    sample_nothing(monkeypatch)


class ScriptedScores:
    """Takes the place of `Scores` in a trial: the average radii are given."""

    def __init__(self, script: Sequence[float]) -> None:
        self._script = iter(script)

    def of(self, *arguments: Any) -> Scores:
        return replace(Scores.of(*arguments), average_certified_radius=next(self._script))


@pytest.fixture
def certified(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, dict[str, Tensor]]]:
    """Draws of each certification, and the weights of the denoiser that was certified."""
    calls: list[tuple[int, dict[str, Tensor]]] = []
    certify = decrop.trial.run.certify

    def spy(config: Any, task: CertificationTask, **named: Any) -> Any:
        assert isinstance(task.network, DenoisedClassifier)
        denoiser = task.network.denoiser.state_dict()
        weights = {name: value.clone() for name, value in denoiser.items()}
        calls.append((named["estimation_samples"], weights))
        return certify(config, task, **named)

    # The last is through the module of several sigmas.
    for module in (decrop.trial.run, decrop.trial.several_sigmas):
        monkeypatch.setattr(module, "certify", spy)
    return calls


def stopped(
    inputs: TrialInputs, cache: ContentCache, folder: TrialFolder, reports: int | None = None
) -> list[Report]:
    trial = run_trial(STOPPING, inputs, folder, cache, split="held_out")
    return list(islice(trial, reports))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.5, 0.4, 0.3], 0),
        ([0.3, 0.5, 0.4], 1),
        ([0.3, 0.4, 0.5], 2),
        # Of equals the first, which took fewer epochs.
        ([0.3, 0.5, 0.5], 1),
        ([0.0, 0.0, 0.0], 0),
    ],
)
def test_the_weights_of_the_best_held_out_score_are_kept(
    scores: list[float],
    best: int,
    inputs: TrialInputs,
    cache: ContentCache,
    tmp_path: Path,
    certified: list[tuple[int, dict[str, Tensor]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decrop.trial.certify, "Scores", ScriptedScores([*scores, LAST_SCORE]))
    folder = TrialFolder(tmp_path)
    reports = stopped(inputs, cache, folder)
    # The choice is between scores of equally many draws; the result has one of its own.
    *while_training, (last_samples, last_weights) = certified
    assert [samples for samples, _ in while_training] == [PRUNING_SAMPLES] * len(SCORED_EPOCHS)
    assert last_samples == STOPPING.certification.held_out_samples
    assert same(last_weights, while_training[best][1])
    assert same(last_weights, load_file(folder.denoiser_path))
    others = [weights for i, (_, weights) in enumerate(while_training) if i != best]
    assert not any(same(last_weights, weights) for weights in others)
    assert [report.epoch for report in reports] == [*SCORED_EPOCHS[:-1], SCORED_EPOCHS[best]]
    assert [report.average_certified_radius for report in reports] == [*scores[:-1], LAST_SCORE]
    assert read_json(folder.result_path)["average_certified_radius"] == LAST_SCORE
    assert stopping_epoch(STOPPING, folder) == SCORED_EPOCHS[best]


@pytest.mark.parametrize("reports_before", slow_but([1, 2], 2))
def test_a_trial_that_goes_on_keeps_the_same_weights(
    reports_before: int, inputs: TrialInputs, cache: ContentCache, tmp_path: Path
) -> None:
    uninterrupted, resumed = TrialFolder(tmp_path / "whole"), TrialFolder(tmp_path / "resumed")
    expected = stopped(inputs, cache, uninterrupted)
    stopped(inputs, cache, resumed, reports_before)
    assert stopped(inputs, cache, resumed) == expected
    assert outcome(resumed) == outcome(uninterrupted)


def test_without_it_training_ends_after_its_last_phase(held_out_trial: TrialFolder) -> None:
    assert stopping_epoch(short_trial(), held_out_trial) is None


def test_training_on_all_limited_data_ends_at_the_epoch(
    inputs: TrialInputs, cache: ContentCache, final_trial: TrialFolder, tmp_path: Path
) -> None:
    folder = TrialFolder(tmp_path)
    seen: list[tuple[int, int]] = []
    (report,) = run_trial(
        STOPPING,
        inputs,
        folder,
        cache,
        split="test",
        last_epoch=3,
        hooks=Hooks(on_progress=lambda stage, done, total: seen.append((done, total))),
    )
    assert report.finished and report.epoch == 3
    assert seen == [(1, 3), (2, 3), (3, 3)]
    whole = outcome(final_trial)
    # The same training as without early stopping, up to there.
    assert outcome(folder)["history"] == whole["history"][:3]
    assert outcome(folder)["denoiser"] != whole["denoiser"]


@pytest.mark.slow
def test_a_command_finds_the_epoch_on_held_out_images_first(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = [
        word for item in (*SHORT, "training.early_stopping=true") for word in ("--set", item)
    ]
    assert run(["train", "digits", *options, "--out", str(out)]) == 0
    chosen = read_json(out / "held_out" / "reports.json")[-1]["epoch"]
    assert read_json(out / "held_out" / "result.json")["split"] == "held_out"
    assert len(read_json(out / "held_out" / "history.json")) == EPOCHS
    assert len(read_json(out / "trial" / "history.json")) == chosen
    assert read_json(out / "trial" / "result.json")["split"] == "test"
