"""Plans of sweeps against the work that such trials really do."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from decrop.cache import ContentCache
from decrop.smoothing.sampling import CountRequest, SamplingTask
from decrop.training.classifier import ClassifierTrainer
from decrop.training.hooks import Hooks
from decrop.trial.folder import Report, TrialFolder
from decrop.trial.prepare import load_inputs
from decrop.trial.result import Split
from decrop.trial.run import certify_undefended, run_trial
from tests.cases import slow_but
from tests.tune.runs import TINY, write_sweep
from tune.cluster import Claim, Claims, ClusterSize, Machines
from tune.plan import Plan, plan_sweep
from tune.space import reference_config
from tune.sweep_file import SweepConfig, load_sweep

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
ONE_CORE = Claim(cpu=1, gpu=0)
TWO_CORES = ClusterSize((Machines(cpu=2, gpu=0),))


@pytest.fixture(autouse=True)
def short_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tune.plan._PROBE_SECONDS", 0.05)


def plan(sweep: SweepConfig, size: ClusterSize = TWO_CORES, **claimed: Any) -> Plan:
    given: dict[str, Any] = {
        "trial": ONE_CORE,
        "helper": ONE_CORE,
        "max_helpers": 1,
        "max_concurrent": None,
    }
    return plan_sweep(sweep, Claims(**{**given, **claimed}), size)


class Counting:
    """Counts draws, and answers that all were of the first class."""

    drawn = 0

    def __init__(self, task: SamplingTask) -> None:
        self._classes = task.class_count

    def class_counts(self, requests: Sequence[CountRequest]) -> NDArray[np.int64]:
        Counting.drawn += sum(request.samples for request in requests)
        counts = np.zeros((len(requests), self._classes + 1), dtype=np.int64)
        counts[:, 0] = [request.samples for request in requests]
        return counts


COUNTING = Hooks(make_sampler=Counting)


FIXED = {"certification": {"procedure": "fixed", "estimation_samples": 150}}


EARLY_STOPPING = {**FIXED, "training": {"early_stopping": True}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("procedure", "changes"),
    slow_but([("fixed", FIXED), ("fixed", EARLY_STOPPING), ("adaptive", {})], ("adaptive", {})),
)
def test_the_work_is_what_trials_do(
    tmp_path: Path, procedure: str, changes: dict[str, Any]
) -> None:
    sweep = load_sweep(str(write_sweep(tmp_path, trial=changes)))
    planned = plan(sweep)
    config = reference_config(sweep)
    assert config.certification.procedure == procedure
    cache = ContentCache(tmp_path / "cache")
    inputs = load_inputs(config, cache, CPU)
    trial, final, bare = (TrialFolder(tmp_path / name) for name in ("trial", "final", "bare"))

    def draws_of(work: Callable[[], object]) -> int:
        before = Counting.drawn
        work()
        return Counting.drawn - before

    def train(folder: TrialFolder, split: Split) -> list[Report]:
        return list(run_trial(config, inputs, folder, cache, split=split, hooks=COUNTING))

    of_a_trial = draws_of(lambda: train(trial, "held_out"))
    of_a_final = draws_of(lambda: train(final, "test"))
    of_none = draws_of(lambda: certify_undefended(config, inputs, bare, hooks=COUNTING))
    assert (planned.trials, planned.finals) == (4, 3)
    drawn = 4 * of_a_trial + 3 * of_a_final + of_none
    if procedure == "fixed":
        assert planned.noisy_samples == drawn
    else:
        # Most images are of other classes than the first, and stop early.
        assert 0 < drawn < planned.noisy_samples / 2
    epochs = len(json.loads(trial.history_path.read_text()))
    images = len(inputs.limited.all)
    trained_on = images - int(inputs.limited.held_out_mask.sum())
    # Clean, boundary and interpolated.
    assert planned.training_images == 3 * epochs * (4 * trained_on + 3 * images)


@pytest.mark.slow
def test_noise_draws_and_generated_images_of_every_step_are_planned(tmp_path: Path) -> None:
    def planned(training: dict[str, Any]) -> Plan:
        return plan(load_sweep(str(write_sweep(tmp_path, trial={"training": training}))))

    plain = planned({"batch_size": 10_000})
    images = {"kind": "dead_leaves", "count": 7}
    more = planned({"batch_size": 10_000, "noise_draws": 3, "prior_images": images})
    assert more.training_images == 3 * plain.training_images
    # One step an epoch, in each of four trials and three final trainings.
    epochs = sum(reference_config(load_sweep(str(write_sweep(tmp_path)))).training.phase_epochs)
    assert (plain.generated_images, more.generated_images) == (0, 7 * 7 * epochs)


@pytest.mark.slow
def test_a_prior_is_planned_once_for_all_trials_that_share_it(tmp_path: Path) -> None:
    prior = {"kind": "dead_leaves", "steps": 7, "batch_size": 5}
    without = plan(load_sweep(str(write_sweep(tmp_path))))
    shared = plan(load_sweep(str(write_sweep(tmp_path, trial={"prior": prior}))))
    assert (without.generated_images, shared.generated_images) == (0, 7 * 5)
    assert shared.training_images == without.training_images
    choice = {"prior.kind": {"choice": ["none", "dead_leaves"]}}
    tried = {**prior, "kind": "none"}
    varied = plan(load_sweep(str(write_sweep(tmp_path, trial={"prior": tried}, space=choice))))
    assert varied.generated_images == 7 * 5
    table = {name: value for name, value in TINY.items() if name in ("name", "base", "trial")}
    rows = {
        "none": {"prior.kind": "none"},
        "prior": {},
        "other weights": {"training.loss_weights.mmd": 0},
        "deep": {"denoiser.depth": 4},
    }
    path = write_sweep(tmp_path, table, search="rows", rows=rows, trial={"prior": prior})
    assert plan(load_sweep(str(path))).generated_images == 2 * 7 * 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trained_on", "objective"),
    slow_but([("limited", "adre_adv"), ("without_held_out", "gaussian")], ("limited", "adre_adv")),
)
def test_the_training_of_classifiers_is_what_trials_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained_on: str, objective: str
) -> None:
    training = {
        "objective": objective,
        "noise_samples": 3,
        "attack_steps": 2,
        "trained_on": trained_on,
        "epochs": 2,
    }
    changes = {
        **FIXED,
        "denoiser": {"source": "none"},
        "classifier": {"training": training},
    }
    space = {"classifier.training.learning_rate": {"uniform": [0.001, 0.01]}}
    sweep = load_sweep(str(write_sweep(tmp_path, trial=changes, space=space)))
    planned = plan(sweep)
    config = reference_config(sweep)
    cache = ContentCache(tmp_path / "cache")
    inputs = load_inputs(config, cache, CPU)
    seen = 0
    classify = ClassifierTrainer._classify

    def counted(trainer: ClassifierTrainer, noisy: torch.Tensor) -> torch.Tensor:
        nonlocal seen
        seen += noisy.shape[0] * noisy.shape[1]
        return classify(trainer, noisy)

    monkeypatch.setattr(ClassifierTrainer, "_classify", counted)
    before = Counting.drawn
    trial, final = (TrialFolder(tmp_path / name) for name in ("trial", "final"))
    list(run_trial(config, inputs, trial, cache, split="held_out", hooks=COUNTING))
    of_a_trial, drawn_by_a_trial = seen, Counting.drawn - before
    if config.trains_again_for_test:
        list(run_trial(config, inputs, final, cache, split="test", hooks=COUNTING))
    else:
        list(run_trial(config, inputs, final, cache, split="test", trained=trial, hooks=COUNTING))
    assert (planned.trials, planned.finals, planned.training_images) == (4, 3, 0)
    of_a_final = seen - of_a_trial
    assert (of_a_final > 0) == (trained_on == "limited")
    assert planned.classifier_images == 4 * of_a_trial + 3 * of_a_final
    # There is no classifier without a denoiser beside them.
    drawn_by_a_final = Counting.drawn - before - drawn_by_a_trial
    assert planned.noisy_samples == 4 * drawn_by_a_trial + 3 * drawn_by_a_final


def test_a_given_classifier_is_planned_once_unless_it_is_varied(tmp_path: Path) -> None:
    # Of TINY's two epochs; 100 of the 1,297 images are limited data, 20 of them held out.
    assert plan(load_sweep(str(write_sweep(tmp_path)))).classifier_images == 2 * 1297
    trained = {"classifier": {"training": {"trained_on": "without_held_out"}}}
    space = {"classifier.training.epochs": {"int": [1, 3]}}
    varied = plan(load_sweep(str(write_sweep(tmp_path, trial=trained, space=space))))
    # Trial 0 has what the file says, the others at most three.
    assert varied.classifier_images == (2 + 3 * 3) * (1297 - 20)


def test_images_that_may_stop_early_are_planned_with_the_most_draws(tmp_path: Path) -> None:
    selection = TINY["trial"]["certification"]["selection_samples"]
    most = {"certification": {"procedure": "adaptive", "max_samples": selection + 150}}
    adaptive, fixed = (
        plan(load_sweep(str(write_sweep(tmp_path, trial=changes)))) for changes in (most, FIXED)
    )
    assert adaptive.noisy_samples == fixed.noisy_samples


def test_no_more_finals_are_planned_than_there_are_trials(tmp_path: Path) -> None:
    sweep = load_sweep(str(write_sweep(tmp_path, leaderboard={"top": 9})))
    assert plan(sweep).finals == TINY["trials"]


def test_more_work_takes_longer(tmp_path: Path) -> None:
    small = plan(load_sweep(str(write_sweep(tmp_path))))
    # The classifier is not trained for a plan.
    many = {"max_samples": 1_000_000, "test_images": 20}
    large = plan(load_sweep(str(write_sweep(tmp_path, trial={"certification": many}))))
    assert 0 < small.hours < 1
    assert large.noisy_samples - small.noisy_samples == 4 * 20 * (1_000_000 - 120)
    # The probes are short and the machine may be busy.
    assert 100 < large.hours / small.hours < 100_000
