"""A trial gives the same result however often it is cut off, and uses only the data it may."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import norm

import decrop.trial.certify
import decrop.trial.parts
from decrop.cache import ContentCache
from decrop.config import TrialConfig
from decrop.evaluation.table import CertificateTable
from decrop.files import read_json
from decrop.networks.registry import build_denoiser
from decrop.smoothing.collect import CertificationProgress
from decrop.synthesis.synthetic_samples import SyntheticSamples
from decrop.training.denoiser import DenoiserTrainer
from decrop.training.hooks import Hooks
from decrop.trial.folder import Report, TrialFolder
from decrop.trial.inputs import TrialInputs
from decrop.trial.prepare import load_inputs
from decrop.trial.result import Scores, TrialResult
from decrop.trial.run import run_trial
from tests.decrop.digits_trial import (
    CPU,
    EPOCHS,
    ESTIMATION_SAMPLES,
    EVALUATIONS,
    FIXED,
    HELD_OUT_SAMPLES,
    PRUNING_SAMPLES,
    SELECTION_SAMPLES,
    TEST_IMAGES,
    files_in,
    outcome,
    short_trial,
)
from tests.decrop.trial_sessions import PROCEDURES, Session, Unreadable, pixels, samples_of

HELD_OUT_IMAGES = 10


@pytest.fixture
def trained_on(monkeypatch: pytest.MonkeyPatch) -> list[SyntheticSamples]:
    """The samples that trainers are given."""
    given: list[SyntheticSamples] = []

    class Spy(DenoiserTrainer):
        def __init__(
            self,
            config: TrialConfig,
            classifier: Any,
            samples: SyntheticSamples,
            device: torch.device,
            **rest: Any,
        ) -> None:
            given.append(samples)
            super().__init__(config, classifier, samples, device, **rest)

    monkeypatch.setattr(decrop.trial.parts, "DenoiserTrainer", Spy)
    return given


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
    *pruning, last = session.samples
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


def test_scores_begin_after_the_squared_error(session: Session, folder: TrialFolder) -> None:
    """A trial that is still in it would be compared with trials that have left it."""
    reports = list(session.run(folder, short_trial("training.mse_epochs=4")))
    assert [report.epoch for report in reports] == [5, 7, 9]


def test_fixed_procedure_draws_equally_often_of_each_image(
    session: Session, folder: TrialFolder
) -> None:
    list(session.run(folder, short_trial(FIXED)))
    pruning = HELD_OUT_IMAGES * (SELECTION_SAMPLES + PRUNING_SAMPLES)
    last = HELD_OUT_IMAGES * (SELECTION_SAMPLES + HELD_OUT_SAMPLES)
    assert session.samples == [pruning] * (EVALUATIONS - 1) + [last]
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
        "inputs.json",
        "checkpoint.pt",
        "history.json",
        "reports.json",
        "denoiser.safetensors",
        "certificates.tsv",
        "certificates.tsv.json",
        "result.json",
        "figures/training.png",
        "figures/certified_accuracy.png",
        "figures/p_a_distribution.png",
    }
    config = TrialConfig.model_validate(read_json(held_out_trial.config_path))
    assert config == short_trial()


def test_held_out_images_are_certified_and_not_trained_on(
    session: Session, folder: TrialFolder, trained_on: list[SyntheticSamples]
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


@pytest.mark.slow
@pytest.mark.parametrize("procedure", PROCEDURES)
def test_final_training_takes_all_limited_images_and_reports_once(
    procedure: str,
    session: Session,
    folder: TrialFolder,
    trained_on: list[SyntheticSamples],
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
        hooks=Hooks(make_sampler=session.make_sampler, on_certified=progress.append),
    )
    (samples,) = trained_on
    assert torch.equal(samples.clean, pixels(inputs.limited.all))
    assert (report.evaluation, report.epoch, report.finished) == (1, EPOCHS, True)
    table = CertificateTable.read_tsv(folder.certificates_path)
    assert table.idx.tolist() == list(range(0, 500, 500 // TEST_IMAGES))
    draws = samples_of(folder)
    most = TEST_IMAGES * (SELECTION_SAMPLES + ESTIMATION_SAMPLES)
    assert draws == most if procedure == FIXED else draws < most
    assert session.samples == [draws]
    assert (progress[0].images, progress[0].samples) == (TEST_IMAGES, 0)
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
    assert radii[1].max() == pytest.approx(reach, rel=1e-7)
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
    session: Session, folder: TrialFolder, trained_on: list[SyntheticSamples]
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


@pytest.mark.slow
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
