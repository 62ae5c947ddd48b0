"""A trial gives the same result however often it is cut off, and uses only the data it may."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy.stats import norm

import decrop.certification
import decrop.trial
from decrop.cache import ContentCache
from decrop.classifier_certificates import certify_undefended
from decrop.config import TrialConfig
from decrop.data.limited import LabelledImages
from decrop.evaluation.table import CertificateTable
from decrop.files import read_json
from decrop.inputs import TrialInputs, load_inputs
from decrop.networks.registry import build_denoiser
from decrop.result import Scores, TrialResult
from decrop.smoothing import collect
from decrop.smoothing.collect import CertificationProgress
from decrop.smoothing.sampling import CountRequest, LocalSampler, SamplingTask
from decrop.synthesis.stage_one import StageOne
from decrop.training import denoiser
from decrop.training.denoiser import DenoiserTrainer
from decrop.training.losses import total_loss
from decrop.training.prior import PRIOR, prior_weights
from decrop.trial import Report, TrialStoppedError, run_trial
from decrop.trial_folder import TrialFolder
from tests.decrop.digits_trial import (
    CPU,
    EPOCHS,
    ESTIMATION_SAMPLES,
    EVALUATIONS,
    FIXED,
    HELD_OUT_SAMPLES,
    PHASE_ONE_EPOCHS,
    PRUNING_SAMPLES,
    SELECTION_SAMPLES,
    TEST_IMAGES,
    certificates,
    draw_nothing,
    files_in,
    outcome,
    short_trial,
)

HELD_OUT_IMAGES = 10
STEPS_AN_EPOCH = 2
PROCEDURES = ["certification.procedure=adaptive", FIXED]


class CutOffError(Exception):
    """The process ends here."""


class Unreadable:
    """Data that a trial must not touch."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was read")

    def __len__(self) -> int:
        raise AssertionError("the length was read")


class Session:
    """Trials as several processes would run them, with a count of the work in all of them."""

    def __init__(self, inputs: TrialInputs, cache: ContentCache) -> None:
        self.inputs = inputs
        self.cache = cache
        self.epochs_trained: list[int] = []
        self.samplers: list[CountingSampler] = []
        self.cut_at: tuple[int, int] | None = None

    @property
    def draws(self) -> list[int]:
        """What each sampler has drawn; each certification makes one."""
        return [sampler.draws for sampler in self.samplers]

    def run(
        self,
        folder: TrialFolder,
        config: TrialConfig | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Iterator[Report]:
        return run_trial(
            config or short_trial(),
            self.inputs,
            folder,
            self.cache,
            split="held_out",
            make_sampler=self.make_sampler,
            on_epoch=lambda done, total: self.epochs_trained.append(done),
            should_stop=should_stop,
        )

    def make_sampler(self, task: SamplingTask) -> "CountingSampler":
        """Count what is drawn, and end at a call of a sampler if asked to, both from 1."""
        number, call = self.cut_at or (0, 0)
        cut = call if number == len(self.samplers) + 1 else None
        self.samplers.append(CountingSampler(task, cut))
        return self.samplers[-1]


class CountingSampler:
    def __init__(self, task: SamplingTask, cut_at_call: int | None) -> None:
        self.chunks_per_batch = task.chunks_per_batch
        self.draws = 0
        self.calls = 0
        self._sampler = LocalSampler(task, CPU)
        self._cut_at_call = cut_at_call

    def class_counts(self, requests: Sequence[CountRequest]) -> NDArray[np.int64]:
        self.calls += 1
        if self.calls == self._cut_at_call:
            raise CutOffError
        self.draws += sum(request.draws for request in requests)
        return self._sampler.class_counts(requests)


@pytest.fixture(autouse=True)
def plain_figures(
    final_trial: TrialFolder, fixed_trial: TrialFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Draw nothing: it takes longer than the rest of a trial.

    The trials that tests share are made before, with their figures.
    """
    draw_nothing(monkeypatch)


@pytest.fixture
def session(inputs: TrialInputs, cache: ContentCache) -> Session:
    return Session(inputs, cache)


@pytest.fixture(scope="module")
def uninterrupted_draws(
    inputs: TrialInputs, cache: ContentCache, tmp_path_factory: pytest.TempPathFactory
) -> list[int]:
    """Draws of each evaluation of `held_out_trial`."""
    session = Session(inputs, cache)
    list(session.run(TrialFolder(tmp_path_factory.mktemp("uninterrupted"))))
    return session.draws


@pytest.fixture
def folder(tmp_path: Path) -> TrialFolder:
    return TrialFolder(tmp_path / "trial")


@pytest.fixture
def trained_on(monkeypatch: pytest.MonkeyPatch) -> list[StageOne]:
    """The samples that trainers are given."""
    given: list[StageOne] = []

    class Spy(DenoiserTrainer):
        def __init__(
            self,
            config: TrialConfig,
            classifier: Any,
            samples: StageOne,
            device: torch.device,
            **rest: Any,
        ) -> None:
            given.append(samples)
            super().__init__(config, classifier, samples, device, **rest)

    monkeypatch.setattr(decrop.trial, "DenoiserTrainer", Spy)
    return given


def samples_of(folder: TrialFolder) -> int:
    samples = CertificateTable.read_tsv(folder.certificates_path).samples
    assert samples is not None
    return int(samples.sum())


def pixels(images: LabelledImages) -> torch.Tensor:
    return images.images.float() / 255


# What a trial does


def test_held_out_trial_reports_at_each_evaluation(
    session: Session, folder: TrialFolder, held_out_trial: TrialFolder
) -> None:
    reports = list(session.run(folder))
    assert [report.evaluation for report in reports] == [1, 2, 3]
    assert [report.epoch for report in reports] == [1, 3, 5]
    assert [report.finished for report in reports] == [False, False, True]
    assert [dataclasses.asdict(report) for report in reports] == read_json(folder.reports_path)
    # Images stop early.
    *pruning, last = session.draws
    most_pruning = SELECTION_SAMPLES + PRUNING_SAMPLES
    assert len(pruning) == EVALUATIONS - 1
    fewest, most = HELD_OUT_IMAGES * SELECTION_SAMPLES, HELD_OUT_IMAGES * most_pruning
    assert all(fewest < draws < most for draws in pruning)
    assert last == samples_of(folder)
    samples = CertificateTable.read_tsv(folder.certificates_path).samples
    assert samples is not None
    assert most_pruning < samples.max() <= SELECTION_SAMPLES + HELD_OUT_SAMPLES
    assert samples.min() == SELECTION_SAMPLES
    assert outcome(folder) == outcome(held_out_trial)


def test_fixed_procedure_draws_equally_often_of_each_image(
    session: Session, folder: TrialFolder
) -> None:
    list(session.run(folder, short_trial(FIXED)))
    pruning = HELD_OUT_IMAGES * (SELECTION_SAMPLES + PRUNING_SAMPLES)
    last = HELD_OUT_IMAGES * (SELECTION_SAMPLES + HELD_OUT_SAMPLES)
    assert session.draws == [pruning] * (EVALUATIONS - 1) + [last]
    table = CertificateTable.read_tsv(folder.certificates_path)
    assert table.samples is not None
    assert set(table.samples.tolist()) == {SELECTION_SAMPLES + HELD_OUT_SAMPLES}
    assert table.ending is not None
    assert set(table.ending.tolist()) == {"complete"}


def test_last_report_scores_the_recorded_certificates(held_out_trial: TrialFolder) -> None:
    table = CertificateTable.read_tsv(held_out_trial.certificates_path)
    scores = Scores.of(table, short_trial().certification.radii)
    result = TrialResult.from_json(read_json(held_out_trial.result_path))
    last = Report(**read_json(held_out_trial.reports_path)[-1])
    assert result.scores == scores
    assert last.average_certified_radius == scores.average_certified_radius > 0
    assert last.certified_accuracy == scores.certified_accuracy


def test_trial_writes_its_files_and_no_others(held_out_trial: TrialFolder) -> None:
    assert files_in(held_out_trial.path) == {
        "config.json",
        "checkpoint.pt",
        "history.json",
        "reports.json",
        "denoiser.safetensors",
        "certificates.tsv",
        "result.json",
        "figures/training.png",
        "figures/certified_accuracy.png",
    }
    config = TrialConfig.model_validate(read_json(held_out_trial.config_path))
    assert config == short_trial()


def test_history_counts_epochs_through_both_phases(held_out_trial: TrialFolder) -> None:
    history = read_json(held_out_trial.history_path)
    assert [row["epoch"] for row in history] == list(range(1, EPOCHS + 1))
    assert [row["phase"] for row in history] == [1] * PHASE_ONE_EPOCHS + [2] * (
        EPOCHS - PHASE_ONE_EPOCHS
    )
    assert [row["discriminator"] is None for row in history] == [
        row["phase"] == 1 for row in history
    ]


def test_held_out_images_are_certified_and_not_trained_on(
    session: Session, folder: TrialFolder, trained_on: list[StageOne]
) -> None:
    list(session.run(folder))
    limited = session.inputs.limited
    kept, held_out = limited.all.subset(~limited.held_out_mask), limited.held_out_mask
    (samples,) = trained_on
    assert torch.equal(samples.clean, pixels(kept))
    # The other views are of the same images: the attack and eq. 7 stay near.
    assert (samples.boundary - samples.clean).abs().max() <= short_trial().boundary.epsilon + 1e-6
    assert (samples.interpolated - samples.clean).abs().max() <= 0.05
    table = CertificateTable.read_tsv(folder.certificates_path)
    assert table.idx.tolist() == limited.all.indices[held_out].tolist()
    assert table.label.tolist() == limited.all.labels[held_out].tolist()
    assert not set(table.idx.tolist()) & set(kept.indices.tolist())


def test_held_out_trial_never_reads_test_images(
    session: Session, folder: TrialFolder, held_out_trial: TrialFolder
) -> None:
    session.inputs = dataclasses.replace(session.inputs, test=Unreadable())  # type: ignore[arg-type]
    list(session.run(folder))
    assert outcome(folder) == outcome(held_out_trial)


@pytest.mark.parametrize("procedure", PROCEDURES)
def test_final_training_takes_all_limited_images_and_reports_once(
    procedure: str,
    session: Session,
    folder: TrialFolder,
    trained_on: list[StageOne],
    request: pytest.FixtureRequest,
) -> None:
    inputs = session.inputs
    progress: list[CertificationProgress] = []
    (report,) = run_trial(
        short_trial(procedure),
        inputs,
        folder,
        session.cache,
        split="test",
        make_sampler=session.make_sampler,
        on_certified=progress.append,
    )
    (samples,) = trained_on
    assert torch.equal(samples.clean, pixels(inputs.limited.all))
    assert (report.evaluation, report.epoch, report.finished) == (1, EPOCHS, True)
    table = CertificateTable.read_tsv(folder.certificates_path)
    assert table.idx.tolist() == list(range(0, 500, 500 // TEST_IMAGES))
    draws = samples_of(folder)
    most = TEST_IMAGES * (SELECTION_SAMPLES + ESTIMATION_SAMPLES)
    assert draws == most if procedure == FIXED else draws < most
    assert session.draws == [draws]
    assert (progress[0].images, progress[0].draws) == (TEST_IMAGES, 0)
    assert progress[-1] == CertificationProgress(TEST_IMAGES, TEST_IMAGES, draws, draws)
    same = request.getfixturevalue("fixed_trial" if procedure == FIXED else "final_trial")
    assert outcome(folder) == outcome(same)


def test_procedures_certify_the_same_denoiser(
    final_trial: TrialFolder, fixed_trial: TrialFolder
) -> None:
    """Only what comes after training differs, and the reach of 60 draws bounds both."""
    adaptive, fixed = outcome(final_trial), outcome(fixed_trial)
    for name in ("denoiser", "history"):
        assert adaptive[name] == fixed[name]
    for name in ("hashes", "clean_accuracy"):
        assert adaptive["result"][name] == fixed["result"][name]
    settings = short_trial().certification
    reach = 0.25 * norm.ppf(settings.failure_probability ** (1 / ESTIMATION_SAMPLES))
    radii = [
        CertificateTable.read_tsv(trial.certificates_path).radius
        for trial in (final_trial, fixed_trial)
    ]
    assert 0.5 * reach < radii[0].max() <= reach
    assert radii[1].max() == pytest.approx(reach, rel=1e-12)
    on_grid = (radii[0] / settings.radius_step).round(6)
    assert (on_grid == on_grid.round()).all()


@pytest.mark.parametrize("split", ["held_out", "test"])
def test_result_says_what_it_was_computed_from(
    split: str, request: pytest.FixtureRequest, inputs: TrialInputs
) -> None:
    folder = request.getfixturevalue("held_out_trial" if split == "held_out" else "final_trial")
    limited = inputs.limited
    held_out = limited.all.subset(limited.held_out_mask)
    images = held_out if split == "held_out" else inputs.test
    result = TrialResult.from_json(read_json(folder.result_path))
    assert result.split == split
    assert result.scores.images == len(images)
    assert result.device == "cpu"
    assert result.hashes == {
        "classifier": inputs.classifier.content_hash(),
        "limited_data": limited.all.content_hash(),
        "certified_images": images.content_hash(),
    }
    timed = {"stage1", "training", "certification"}
    assert result.seconds.keys() == timed | ({"noisy_image"} if split == "test" else set())
    assert all(seconds > 0 for seconds in result.seconds.values())
    trained_seconds = sum(row["seconds"] for row in read_json(folder.history_path))
    assert result.seconds["training"] == pytest.approx(trained_seconds, abs=1e-3)
    network = build_denoiser(short_trial().denoiser, image_channels=1).eval()
    network.load_state_dict(load_file(folder.denoiser_path))
    with torch.no_grad():
        predicted = inputs.classifier(network(pixels(images))).argmax(1)
    right = (predicted == images.labels).float().mean().item()
    assert result.clean_accuracy == pytest.approx(right)


def test_flip_rate_is_of_the_images_trained_on(
    session: Session, folder: TrialFolder, trained_on: list[StageOne]
) -> None:
    list(session.run(folder))
    (samples,) = trained_on
    with torch.no_grad():
        clean, boundary = (
            session.inputs.classifier(views).argmax(1)
            for views in (samples.clean, samples.boundary)
        )
    rate = (clean != boundary).float().mean().item()
    assert 0 < rate < 1
    result = TrialResult.from_json(read_json(folder.result_path))
    assert result.flip_rate == pytest.approx(rate)


# Seeds


def test_same_seed_gives_the_same_trial_from_nothing(
    held_out_trial: TrialFolder, tmp_path: Path
) -> None:
    cache = ContentCache(tmp_path / "cache")
    inputs = load_inputs(short_trial(), cache, CPU)
    folder = TrialFolder(tmp_path / "trial")
    torch.manual_seed(1)
    np.random.seed(1)
    list(run_trial(short_trial(), inputs, folder, cache, split="held_out"))
    assert cache.computations("classifier") == cache.computations("boundary") == 1
    assert outcome(folder) == outcome(held_out_trial)


def test_another_seed_gives_another_denoiser_and_other_certificates(
    session: Session, folder: TrialFolder, held_out_trial: TrialFolder
) -> None:
    list(session.run(folder, short_trial("seed=1")))
    other, one = outcome(folder), outcome(held_out_trial)
    assert other["denoiser"] != one["denoiser"]
    assert other["certificates"] != one["certificates"]
    # The limited data have a seed of their own.
    assert other["result"]["hashes"] == one["result"]["hashes"]


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
    assert session.draws == uninterrupted_draws


def test_finished_trial_only_repeats_its_reports(
    held_out_trial: TrialFolder, tmp_path: Path
) -> None:
    before = outcome(held_out_trial)
    written = {path: path.stat().st_mtime_ns for path in held_out_trial.path.rglob("*.*")}

    def make_sampler(task: SamplingTask) -> Any:
        raise AssertionError("a finished trial samples nothing")

    inputs: Any = Unreadable()
    empty_cache = ContentCache(tmp_path)
    reports = list(
        run_trial(
            short_trial(),
            inputs,
            held_out_trial,
            empty_cache,
            split="held_out",
            make_sampler=make_sampler,
        )
    )
    assert [dataclasses.asdict(report) for report in reports] == before["reports"]
    assert outcome(held_out_trial) == before
    changed = {p for p, time in written.items() if p.stat().st_mtime_ns != time}
    assert changed <= {held_out_trial.config_path}
    assert not list(tmp_path.iterdir())


# In the first epoch of all, after the optimiser has changed, and in phase 2.
@pytest.mark.parametrize("step", [2, 2 * STEPS_AN_EPOCH + 2, 4 * STEPS_AN_EPOCH + 2])
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
        monkeypatch.setattr(decrop.trial, "_SAVE_EVERY_SECONDS", -1.0)
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
@pytest.mark.parametrize("evaluation", [1, 2, 3])
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
    before, cut_off = session.draws[:-1], session.draws[-1]
    assert (cut_off > 0) == (call > 1)
    list(session.run(folder))
    assert outcome(folder) == outcome(held_out_trial)
    assert files_in(folder.path) == files_in(held_out_trial.path)
    assert session.epochs_trained == list(range(1, EPOCHS + 1))
    after = session.draws[evaluation:]
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


@pytest.fixture
def short_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Certifications can be cut off in many places."""
    monkeypatch.setattr(collect, "_FIRST_GROUP", 4)
    monkeypatch.setattr(collect, "_GROUP_SECONDS", 0.0)


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
    kept = session.draws[-1]
    assert kept > 0
    list(session.run(folder))
    assert kept + session.draws[-1] == samples_of(folder)
    assert session.epochs_trained == list(range(1, EPOCHS + 1))
    assert outcome(folder) == outcome(held_out_trial)


@pytest.mark.usefixtures("short_groups")
@pytest.mark.parametrize("procedure", PROCEDURES)
def test_final_certification_cut_off_half_way_draws_only_the_rest(
    procedure: str, session: Session, folder: TrialFolder, request: pytest.FixtureRequest
) -> None:
    same = request.getfixturevalue("fixed_trial" if procedure == FIXED else "final_trial")
    cuts = (1, 15, 30)
    for number, call in enumerate(cuts, start=1):
        session.cut_at = number, call
        with pytest.raises(CutOffError):
            list(final_training(session, folder, procedure))
        assert folder.counts_path.exists()
    session.cut_at = None
    list(final_training(session, folder, procedure))
    assert outcome(folder) == outcome(same)
    assert files_in(folder.path) == files_in(same.path)
    assert session.draws[0] == 0
    assert all(draws > 0 for draws in session.draws[1:])
    assert sum(session.draws) == samples_of(folder)
    assert session.epochs_trained == list(range(1, EPOCHS + 1))


def final_training(session: Session, folder: TrialFolder, procedure: str) -> Iterator[Report]:
    return run_trial(
        short_trial(procedure),
        session.inputs,
        folder,
        session.cache,
        split="test",
        make_sampler=session.make_sampler,
        on_epoch=lambda done, total: session.epochs_trained.append(done),
    )


def test_a_trial_that_goes_on_keeps_the_batch_size_it_found(
    session: Session, folder: TrialFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another probe would find another one, of which counts may depend."""
    probed = iter([3, 5])
    monkeypatch.setattr(
        decrop.certification, "probe_chunks_per_batch", lambda task, device: next(probed)
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
    assert sum(session.draws[EVALUATIONS - 1 :]) == samples_of(folder)
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


# The prior

PRIOR_STEPS = 5


def trial_with_prior() -> TrialConfig:
    return short_trial("prior.kind=dead_leaves", f"prior.steps={PRIOR_STEPS}", "prior.batch_size=4")


@pytest.fixture(scope="module")
def pretrained_trial(
    inputs: TrialInputs, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrialFolder, ContentCache]:
    """A finished trial with a prior, and its cache."""
    path = tmp_path_factory.mktemp("pretrained")
    folder, cache = TrialFolder(path / "trial"), ContentCache(path / "cache")
    list(run_trial(trial_with_prior(), inputs, folder, cache, split="held_out"))
    return folder, cache


def test_trial_with_a_prior_starts_from_it(
    pretrained_trial: tuple[TrialFolder, ContentCache],
    held_out_trial: TrialFolder,
    session: Session,
    folder: TrialFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finished, cache = pretrained_trial
    assert read_json(finished.result_path)["seconds"]["prior"] > 0
    assert "prior" not in read_json(held_out_trial.result_path)["seconds"]
    assert outcome(finished)["denoiser"] != outcome(held_out_trial)["denoiser"]

    config = trial_with_prior()
    expected = prior_weights(
        config.prior,
        config.denoiser,
        sigma=config.sigma,
        image_shape=(1, 8, 8),
        seed=config.seed,
        precision="fp32",
        cache=cache,
        device=CPU,
    )
    assert expected is not None
    begun: list[dict[str, torch.Tensor]] = []

    def stop(trainer: DenoiserTrainer) -> None:
        begun.append(dict(trainer.denoiser.state_dict()))
        raise CutOffError

    monkeypatch.setattr(DenoiserTrainer, "run_epoch", stop)
    session.cache = cache
    with pytest.raises(CutOffError):
        list(session.run(folder, config))
    assert begun[0].keys() == expected.keys()
    assert all(torch.equal(begun[0][name], expected[name]) for name in expected)
    assert cache.computations(PRIOR) == 1


def test_trial_with_a_prior_is_the_same_from_nothing(
    pretrained_trial: tuple[TrialFolder, ContentCache],
    inputs: TrialInputs,
    folder: TrialFolder,
    tmp_path: Path,
) -> None:
    steps: list[tuple[int, int]] = []
    cache = ContentCache(tmp_path / "cache")
    list(
        run_trial(
            trial_with_prior(),
            inputs,
            folder,
            cache,
            split="held_out",
            on_prior_step=lambda done, total: steps.append((done, total)),
        )
    )
    assert steps[-1] == (PRIOR_STEPS, PRIOR_STEPS)
    assert cache.computations(PRIOR) == 1
    assert outcome(folder) == outcome(pretrained_trial[0])


def test_trial_with_a_prior_goes_on_without_pretraining_again(
    pretrained_trial: tuple[TrialFolder, ContentCache], session: Session, folder: TrialFolder
) -> None:
    finished, session.cache = pretrained_trial
    trial = session.run(folder, trial_with_prior())
    next(trial)
    trial.close()  # type: ignore[attr-defined]
    list(session.run(folder, trial_with_prior()))
    assert outcome(folder) == outcome(finished)
    assert session.cache.computations(PRIOR) == 1


# Without a denoiser


def undefended(session: Session, folder: TrialFolder, *assignments: str) -> TrialResult:
    config = short_trial(*assignments)
    return certify_undefended(config, session.inputs, folder, make_sampler=session.make_sampler)


@pytest.mark.parametrize("procedure", PROCEDURES)
def test_undefended_classifier_is_certified_on_test_images(
    inputs: TrialInputs, folder: TrialFolder, session: Session, procedure: str
) -> None:
    result = undefended(session, folder, procedure)
    table = CertificateTable.read_tsv(folder.certificates_path)
    assert result == TrialResult.from_json(read_json(folder.result_path))
    assert result.split == "test"
    assert result.flip_rate is None
    assert result.scores == Scores.of(table, short_trial().certification.radii)
    assert result.hashes["certified_images"] == inputs.test.content_hash()
    assert table.idx.tolist() == inputs.test.indices.tolist()
    assert session.draws == [samples_of(folder)]
    most = TEST_IMAGES * (SELECTION_SAMPLES + ESTIMATION_SAMPLES)
    assert session.draws == [most] if procedure == FIXED else session.draws < [most]
    with torch.no_grad():
        right = inputs.classifier(pixels(inputs.test)).argmax(1) == inputs.test.labels
    assert result.clean_accuracy == pytest.approx(right.float().mean().item())
    assert result.clean_accuracy > 0.5


def test_undefended_classifier_is_certified_once(folder: TrialFolder, session: Session) -> None:
    first = undefended(session, folder)
    assert undefended(session, folder) == first
    assert len(session.samplers) == 1


@pytest.mark.usefixtures("short_groups")
def test_undefended_certification_cut_off_half_way_draws_only_the_rest(
    folder: TrialFolder, session: Session, tmp_path: Path
) -> None:
    session.cut_at = 1, 25
    with pytest.raises(CutOffError):
        undefended(session, folder)
    assert folder.counts_path.exists()
    undefended(session, folder)
    before, after = session.draws
    assert before > 0
    assert after > 0
    assert before + after == samples_of(folder)
    uninterrupted = TrialFolder(tmp_path / "uninterrupted")
    undefended(session, uninterrupted)
    found, expected = (
        certificates(CertificateTable.read_tsv(one.certificates_path))
        for one in (folder, uninterrupted)
    )
    assert found == expected
    assert files_in(folder.path) == files_in(uninterrupted.path)


def test_an_untrained_denoiser_changes_no_certificate(
    inputs: TrialInputs, cache: ContentCache, folder: TrialFolder, tmp_path: Path
) -> None:
    """It is the identity, and sees the noise that the undefended classifier sees."""
    # A learning rate that rounds away.
    config = short_trial("training.learning_rate=1e-30", "training.optimizer=sgd")
    list(run_trial(config, inputs, folder, cache, split="test"))
    reference = TrialFolder(tmp_path / "undefended")
    certify_undefended(config, inputs, reference)
    with_denoiser, without = (
        certificates(CertificateTable.read_tsv(f.certificates_path)) for f in (folder, reference)
    )
    assert with_denoiser == without
