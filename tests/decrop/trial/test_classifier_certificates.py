"""Test certificates of a classifier without a denoiser."""

from pathlib import Path

import pytest
import torch

from decrop.cache import ContentCache
from decrop.evaluation.table import CertificateTable
from decrop.files import read_json
from decrop.training.hooks import Hooks
from decrop.trial.folder import TrialFolder
from decrop.trial.inputs import TrialInputs
from decrop.trial.result import Scores, TrialResult
from decrop.trial.run import certify_undefended, run_trial
from tests.decrop.digits_trial import (
    ESTIMATION_SAMPLES,
    FIXED,
    SELECTION_SAMPLES,
    TEST_IMAGES,
    certificates,
    files_in,
    short_trial,
)
from tests.decrop.trial_sessions import PROCEDURES, CutOffError, Session, pixels, samples_of

# Without a denoiser


def undefended(session: Session, folder: TrialFolder, *assignments: str) -> TrialResult:
    config = short_trial(*assignments)
    hooks = Hooks(make_sampler=session.make_sampler)
    return certify_undefended(config, session.inputs, folder, hooks=hooks)


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
    assert session.samples == [samples_of(folder)]
    most = TEST_IMAGES * (SELECTION_SAMPLES + ESTIMATION_SAMPLES)
    assert session.samples == [most] if procedure == FIXED else session.samples < [most]
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
    session.cut_at = 1, 7
    with pytest.raises(CutOffError):
        undefended(session, folder)
    assert folder.counts_path.exists()
    undefended(session, folder)
    before, after = session.samples
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
